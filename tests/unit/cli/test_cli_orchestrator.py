"""`stepmesh orchestrator` refuses what cannot be shared, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_cli.main import main
from stepmesh_cli.membership import membership_of
from stepmesh_orchestrator.membership import SqliteMembership

SHARED = ("--broker", "nats://127.0.0.1:1", "--journal", "sqlite:journal.db")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no broker is named"),
        (("--broker", "embedded"), "the broker 'embedded' is one process's own"),
        (("--broker", "nats://127.0.0.1:1"), "no journal is named"),
        (("--broker", "nats://127.0.0.1:1", "--journal", "memory"), "the journal 'memory' is one process's own"),
        (("--broker", "nats://127.0.0.1:1", "--journal", "sqlite"), "the journal 'sqlite' is one process's own"),
        ((*SHARED, "--partitions", "-1"), "--partitions -1 is below 1"),
        ((*SHARED, "--ttl", "0.4"), "--ttl 0.4 is below 0.5"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["orchestrator", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("journal", "file"), [("journal.db", "members.db"), ("mine.db", "mine.members.db")])
def test_the_members_file_lies_beside_the_journal(tmp_path: Path, journal: str, file: str) -> None:
    membership = membership_of(f"sqlite:{tmp_path / journal}", Namespace("default"))
    assert isinstance(membership, SqliteMembership)
    assert membership._path == tmp_path / file
