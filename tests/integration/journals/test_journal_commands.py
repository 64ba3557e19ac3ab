"""`stepmesh journal` on a server: verify and dump beside whoever runs, repair after it said what would go and copied what was there."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from redis import Redis
from tests.contract.journals.backend import Backend
from tests.contract.journals.jetstream import JetStreamBackend
from tests.contract.journals.kafka import KafkaBackend
from tests.contract.journals.postgres import PostgresBackend
from tests.contract.journals.redis import RedisBackend
from tests.contract.journals.registry import fresh

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_cli import exits
from stepmesh_cli.main import main
from stepmesh_orchestrator.core.events import Turn, encode_turn
from stepmesh_orchestrator.ports import Snapshot

P = Partition(3)
KINDS = ["postgres", "redis", "nats", "kafka"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{kind}_url"))


@pytest.fixture
def namespace() -> str:
    return fresh()


def backend_of(kind: str, url: str, namespace: str) -> Backend:
    if kind == "postgres":
        return PostgresBackend(url, Namespace(namespace))
    if kind == "redis":
        return RedisBackend(url, Namespace(namespace))
    return JetStreamBackend(url, namespace, 1) if kind == "nats" else KafkaBackend(url, namespace, "process")


@pytest.fixture
def flags(kind: str, url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of a journal with ten frames, a good snapshot after the sixth, and a bad fifth frame."""
    monkeypatch.chdir(tmp_path)

    async def fill() -> None:
        backend = backend_of(kind, url, namespace)
        await backend.journal.open()
        try:
            epoch = (await backend.journal.acquire(P, "filler")).epoch
            for sequence in range(1, 11):
                await backend.journal.append(P, epoch, sequence, encode_turn(Turn(1, sequence, 0, 0, [])))
            await backend.journal.save_snapshot(P, epoch, Snapshot(6, b"state"))
            await backend.put_frame(P, 5, payload=b"something else")
        finally:
            await backend.journal.close()

    asyncio.run(fill())
    return ["--journal", url, "--namespace", namespace]


def test_the_damage_is_named_shown_and_repaired(
    kind: str, url: str, namespace: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["journal", "verify", *flags]) == exits.FAILED
    told = capsys.readouterr().out
    assert "partition 3: 4 good frames after 0, snapshots: 6" in told
    assert "frame 5: " in told
    assert f"--namespace {namespace} (it keeps a copy)" in told
    assert main(["journal", "dump", *flags]) == exits.FAILED
    dumped = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["partition"], one["sequence"], one["events"]) for one in dumped] == [(3, sequence, []) for sequence in range(1, 5)]

    assert main(["journal", "repair", *flags]) == exits.FAILED
    assert "has frames 7 to 10 after a repair" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main(["journal", "verify", *flags]) == exits.FAILED
    capsys.readouterr()

    assert main(["journal", "repair", *flags, "--yes"]) == exits.OK
    told = capsys.readouterr().out
    assert "has frames 7 to 10 now" in told
    (copy,) = tmp_path.iterdir()
    assert copy.name in told
    copied = [json.loads(line) for line in copy.read_text().splitlines()]
    assert {one["partition"] for one in copied} == {3}
    assert b"something else" in b"".join(base64.b64decode(one.get("record") or one.get("payload") or "") for one in copied)
    assert main(["journal", "verify", *flags, "--json"]) == exits.OK
    assert json.loads(capsys.readouterr().out)["partitions"][0]["frames"] == 4
    assert main(["journal", "repair", *flags, "--yes"]) == exits.OK
    assert "nothing is wrong" in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", ["postgres", "redis"], indirect=True)
def test_a_lost_owner_is_told_and_made_again(
    kind: str, url: str, namespace: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "postgres":
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL("DELETE FROM {}.owners").format(sql.Identifier(f"stepmesh_{namespace}")))
    else:
        with Redis.from_url(url) as redis:
            redis.delete(f"stepmesh:{{{namespace}:3}}:owner")
    assert main(["journal", "verify", *flags]) == exits.FAILED
    assert "owner record is missing" in capsys.readouterr().out
    assert main(["journal", "repair", *flags, "--yes"]) == exits.OK
    assert "owner record is missing" in capsys.readouterr().out
    assert main(["journal", "verify", *flags, "--json"]) == exits.OK
    assert json.loads(capsys.readouterr().out)["partitions"][0]["frames"] == 4


def test_a_copy_that_cannot_be_written_changes_nothing(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "copy"
    there.write_text("mine")
    assert main(["journal", "repair", *flags, "--yes", "--backup", str(there)]) == exits.USAGE
    assert "nothing was changed" in capsys.readouterr().err
    assert there.read_text() == "mine"
    assert main(["journal", "verify", *flags]) == exits.FAILED


@pytest.mark.parametrize("command", ["verify", "dump", "repair"])
def test_looking_makes_no_journal(url: str, namespace: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["journal", command, "--journal", url, "--namespace", namespace]) == exits.FAILED
        assert "SM-4222" in capsys.readouterr().err
