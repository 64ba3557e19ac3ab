"""Verifying and repairing the journal on every server: each damage is named, what verifies stays, and the next owner goes on from there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from tests.contract.journals.backend import Backend
from tests.contract.journals.registry import BACKENDS

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.inspect import Inspectable, verify
from stepmesh_orchestrator.journal.repair import Finding, Repairable, examine
from stepmesh_orchestrator.journal.rules import JournalInUse
from stepmesh_orchestrator.ports import Frame, JournalError, Snapshot, StaleOwner

P = Partition(3)
OTHER = Partition(4)
FILES = {"memory", "sqlite"}
"""Those have no server: a file is repaired as a whole, see `test_journal_inspect`."""


async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    made = BACKENDS[request.param](request)
    await made.journal.open()
    yield made
    await made.journal.close()


every = pytest.fixture(params=sorted(BACKENDS))(opened)
server = pytest.fixture(params=sorted(set(BACKENDS) - FILES))(opened)


def of(backend: Backend) -> Repairable:
    return cast("Repairable", backend.journal)


def keeps_its_end(backend: Backend) -> bool:
    return type(backend.journal).__name__ == "KafkaJournal"


async def fill(backend: Backend, frames: int, *snapshots: int, partition: Partition = P) -> int:
    journal = backend.journal
    epoch = (await journal.acquire(partition, "filler")).epoch
    for sequence in range(1, frames + 1):
        await journal.append(partition, epoch, sequence, b"payload %d" % sequence)
    for sequence in snapshots:
        await journal.save_snapshot(partition, epoch, Snapshot(sequence, b"state %d" % sequence))
    return epoch


async def mend(backend: Backend) -> Finding:
    """Do what a repair would do; what it was."""
    found = await examine(of(backend), P)
    assert found is not None
    await of(backend).keep(P, found.seen, found.kept)
    return found


async def contents(backend: Backend) -> tuple[list[Frame], list[int]]:
    """Frames and snapshots, all verified."""
    report = await verify(of(backend), P)
    assert report.good, report
    assert await examine(of(backend), P) is None
    return [frame async for frame in backend.journal.read(P, report.trimmed)], list(report.snapshots)


async def goes_on(backend: Backend, next_sequence: int, above: int) -> None:
    """The next owner appends where the repair ended, with an epoch that nobody had."""
    ownership = await backend.journal.acquire(P, "next")
    assert ownership.next_sequence == next_sequence
    assert ownership.epoch > above
    for sequence in (next_sequence, next_sequence + 1):
        await backend.journal.append(P, ownership.epoch, sequence, b"goes on")
    journal = await backend.reopened()
    read = [frame async for frame in journal.read(P, next_sequence - 1)]
    assert [frame.payload for frame in read] == [b"goes on"] * 2


# --- verify ----------------------------------------------------------------------------------------------


async def test_every_backend_verifies(every: Backend) -> None:
    await fill(every, 5, 2, 4)
    report = await verify(cast("Inspectable", every.journal), P)
    assert (report.good, report.frames, list(report.snapshots), report.torn) == (True, 5, [4, 2], False)


@pytest.mark.parametrize(
    ("fields", "reason"), [({"payload": b"other"}, "checksum"), ({"chain": bytes(16)}, "hash chain"), (None, "missing")]
)
async def test_a_bad_frame_is_named(every: Backend, fields: dict[str, Any] | None, reason: str) -> None:
    await fill(every, 5)
    await fill(every, 2, partition=OTHER)
    await (every.drop_frame(P, 3) if fields is None else every.put_frame(P, 3, **fields))
    report = await verify(cast("Inspectable", every.journal), P)
    assert (report.good, report.frames, report.first_bad) == (False, 2, 3)
    assert reason in report.reason
    assert (await verify(cast("Inspectable", every.journal), OTHER)).good


async def test_frames_that_changed_places_and_bad_snapshots_are_named(every: Backend) -> None:
    await fill(every, 5, 2, 4)
    await every.put_frame(P, 3, payload=b"payload 4")
    await every.put_frame(P, 4, payload=b"payload 3")
    await every.put_snapshot(P, 4, payload=b"other")
    report = await verify(cast("Inspectable", every.journal), P)
    assert (report.first_bad, [sequence for sequence, _ in report.damaged_snapshots]) == (3, [4])


# --- repair ----------------------------------------------------------------------------------------------


async def test_a_good_journal_needs_nothing(server: Backend) -> None:
    await fill(server, 5, 2, 4)
    await server.journal.trim(P, 2)
    assert await examine(of(server), P) is None
    assert await examine(of(server), OTHER) is None


@pytest.mark.parametrize("fields", [{"payload": b"other"}, {"payload": "text"}, None])
async def test_what_precedes_the_damage_stays(server: Backend, fields: dict[str, Any] | None) -> None:
    epoch = await fill(server, 10)
    await fill(server, 2, partition=OTHER)
    await (server.drop_frame(P, 7) if fields is None else server.put_frame(P, 7, **fields))
    if keeps_its_end(server):
        with pytest.raises(JournalError, match="cannot forget its end") as refused:
            await mend(server)
        assert refused.value.code == "SM-4221"
        assert (await verify(of(server), P)).first_bad == 7
        return
    cut = (await mend(server)).cut
    assert (cut.last_before, cut.first, cut.last, "frame 7" in cut.reason) == (10, 1, 6, True)
    frames, _ = await contents(server)
    assert [frame.payload for frame in frames] == [b"payload %d" % n for n in range(1, 7)]
    await goes_on(server, 7, epoch + 1)
    assert (await verify(of(server), OTHER)).frames == 2


async def test_a_good_snapshot_behind_the_damage_saves_what_follows_it(server: Backend) -> None:
    epoch = await fill(server, 10, 3, 6, 9)
    await server.put_frame(P, 5, payload=b"other")
    cut = (await mend(server)).cut
    assert (cut.first, cut.last, cut.snapshots) == (7, 10, [9, 6])
    frames, snapshots = await contents(server)
    assert [frame.sequence for frame in frames] == [7, 8, 9, 10]
    assert snapshots == [9, 6]
    await goes_on(server, 11, epoch + 1)


async def test_a_snapshot_after_the_last_frame_outlives_it(server: Backend) -> None:
    epoch = await fill(server, 5, 2, 5)
    await server.put_frame(P, 5, payload=b"other")
    assert (await mend(server)).cut.snapshots == [5]
    assert await contents(server) == ([], [5])
    await goes_on(server, 6, epoch + 1)


async def test_a_bad_snapshot_goes_and_the_frames_stay(server: Backend) -> None:
    await fill(server, 5, 2, 4)
    await server.put_snapshot(P, 4, payload=b"other")
    assert "snapshot 4: its checksum" in (await mend(server)).cut.reason
    frames, snapshots = await contents(server)
    assert ([frame.sequence for frame in frames], snapshots) == ([1, 2, 3, 4, 5], [2])


async def test_when_every_snapshot_is_bad_none_stays(server: Backend) -> None:
    await fill(server, 3, 1, 2)
    for sequence in (1, 2):
        await server.put_snapshot(P, sequence, payload=b"other")
    await mend(server)
    frames, snapshots = await contents(server)
    assert ([frame.sequence for frame in frames], snapshots) == ([1, 2, 3], [])
    await goes_on(server, 4, 1)


async def test_who_owned_the_partition_is_fenced_off(server: Backend) -> None:
    epoch = await fill(server, 10, 6)
    await server.put_frame(P, 5, payload=b"other")
    await mend(server)
    with pytest.raises(StaleOwner):
        await server.journal.append(P, epoch, 11, b"stale")
    assert [frame.sequence for frame in (await contents(server))[0]] == [7, 8, 9, 10]


async def test_nothing_is_forgotten_that_was_written_meanwhile(server: Backend) -> None:
    epoch = await fill(server, 10, 6)
    await server.put_frame(P, 5, payload=b"other")
    found = await examine(of(server), P)
    assert found is not None
    await server.reopened()
    await server.journal.append(P, epoch, 11, b"meanwhile")
    with pytest.raises(JournalInUse) as refused:
        await of(server).keep(P, found.seen, found.kept)
    assert refused.value.code == "SM-4220"
    report = await verify(of(server), P)
    assert (report.frames, report.first_bad, list(report.snapshots)) == (4, 5, [6])
    await mend(server)
    assert [frame.sequence for frame in (await contents(server))[0]] == [7, 8, 9, 10, 11]


async def test_a_copy_has_everything(server: Backend) -> None:
    await fill(server, 4, 2)
    await server.put_frame(P, 3, payload=b"something else")
    copied = [piece async for piece in of(server).pieces(P)]
    text = repr(copied).encode()
    for wanted in (b"payload 1", b"payload 2", b"something else", b"payload 4", b"state 2"):
        assert wanted in text
    assert len({(piece.kind, piece.number) for piece in copied}) == len(copied)
    assert [piece async for piece in of(server).pieces(OTHER)] == []
