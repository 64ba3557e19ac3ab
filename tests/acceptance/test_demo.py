"""`stepmesh demo` with real processes: the report of a small batch, and a batch that survives kill -9 of everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]


def demo(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON line, and what was said."""
    command = [sys.executable, "-m", "stepmesh_cli", "demo", "--json", "--data", str(folder / "data"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)
    lines = done.stdout.splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr


def test_a_small_batch_ends_with_its_report_and_trace(tmp_path: Path) -> None:
    code, told, said = demo(tmp_path, "--files", "40")
    assert code == 0, said
    assert (told["files"], told["failed"]) == (40, [])
    assert told["unparsed"] > 0
    assert told["executions"] > 160
    page = Path(told["report"]).read_text()
    assert page.count("<svg") == 6
    assert "40 source files went as one batch" in page
    assert "step functions" in told["trace"]
    assert "█" in told["trace"]


@pytest.mark.parametrize("seed", [2, 4])
def test_a_batch_survives_kill_nine_of_everything(tmp_path: Path, seed: int) -> None:
    code, told, said = demo(tmp_path, "--chaos", "--seed", str(seed), "--files", "120")
    assert code == 0, (told, said)
    assert {"worker", "orchestrator", "broker"} <= {kill["target"] if isinstance(kill, dict) else kill[0] for kill in told["kills"]}
    assert len(told["checks"]) == 8
    assert all(not check["findings"] for check in told["checks"])
    assert Path(told["report"]).exists()
