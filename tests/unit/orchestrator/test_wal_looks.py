"""A log that another process writes to may look damaged once; what looks damaged each time is."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepmesh_orchestrator.sqlite import DamagedLog, wal


@pytest.mark.parametrize(("bad_looks", "refused"), [(0, False), (wal.LOOKS - 1, False), (wal.LOOKS, True)])
def test_only_what_stays_damaged_is_refused(monkeypatch: pytest.MonkeyPatch, bad_looks: int, refused: bool) -> None:
    left = [DamagedLog("damaged")] * bad_looks

    def look(path: Path) -> None:
        if left:
            raise left.pop()

    monkeypatch.setattr(wal, "_check_log", look)
    if refused:
        with pytest.raises(DamagedLog):
            wal.check_log(Path("journal.db"))
    else:
        wal.check_log(Path("journal.db"))
