"""Recovery: from which snapshot, what was never sent, and what a journal must not lack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from tests.simulation.virtual_loop import LoopTimeClock
from tests.unit.orchestrator.runtime.lab import ONE_STEP, Lab, until, virtual

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core.snapshot import encode_state, state_hash
from stepmesh_orchestrator.ports import Frame, JournalError, Snapshot, StoreError
from stepmesh_orchestrator.runtime import encoding
from stepmesh_orchestrator.runtime import shard as shards
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.projector import Projector
from stepmesh_orchestrator.runtime.recovery import Recovered, recover
from stepmesh_orchestrator.store.memory import MemoryStore

P = Partition(0)


async def recovered(lab: Lab) -> Recovered:
    """The journal replayed beside the node."""
    return await recover(lab.journal, P, FlowRegistry(lab.store, LoopTimeClock()), Projector(lab.store, P))


async def with_runs(count: int) -> Lab:
    lab = await Lab().start()
    for number in range(count):
        await lab.submit(ONE_STEP, number)
    return lab


@virtual
async def test_with_and_without_a_snapshot_the_state_is_the_same() -> None:
    lab = await with_runs(3)
    replayed = await recovered(lab)
    await lab.shard.snapshot()
    await lab.submit(ONE_STEP, 9)
    live = state_hash(lab.shard.session.state)
    from_snapshot = await recovered(lab)
    assert replayed.snapshot_sequence == 0
    assert from_snapshot.snapshot_sequence > 0
    assert state_hash(from_snapshot.state) == live


@virtual
async def test_a_snapshot_that_is_of_no_use_gives_way_to_an_older_one(caplog: pytest.LogCaptureFixture) -> None:
    lab = await with_runs(2)
    await lab.shard.snapshot()
    good = lab.shard.sequence
    await lab.submit(ONE_STEP, 9)
    await lab.journal.save_snapshot(P, lab.shard.ownership.epoch, Snapshot(lab.shard.sequence, b"\xc1 not a snapshot"))
    found = await recovered(lab)
    assert found.snapshot_sequence == good
    assert state_hash(found.state) == state_hash(lab.shard.session.state)
    assert "is of no use" in caplog.text


@virtual
async def test_an_empty_journal_is_an_empty_state() -> None:
    lab = await Lab().start()
    found = await recovered(lab)
    assert (found.state.sequence, found.state.runs, found.unsent) == (0, {}, set())


@virtual
async def test_a_flow_that_the_store_lost_is_said_with_the_fix() -> None:
    lab = await with_runs(1)
    lab.store = MemoryStore()
    with pytest.raises(JournalError) as problem:
        await recovered(lab)
    assert problem.value.code == "SM-4008"
    assert "restore" in problem.value.hint


@virtual
async def test_a_journal_that_shows_less_than_it_has_is_not_gone_on_from() -> None:
    """A replica that is behind answered, say: what was decided in the rest would be decided once more, into the same history."""
    lab = await with_runs(2)
    await lab.node.abort()
    read = lab.journal.read

    async def shorter(partition: Partition, after: int = 0) -> AsyncIterator[Frame]:
        frames = [frame async for frame in read(partition, after)]
        for frame in frames[:-1]:
            yield frame

    lab.journal.read = shorter  # type: ignore[method-assign]
    with pytest.raises(JournalError) as problem:
        await lab.start()
    assert problem.value.code == "SM-4230"
    lab.journal.read = read  # type: ignore[method-assign]
    await lab.start()
    assert len(lab.shard.session.state.runs) == 2
    await lab.stop()


@virtual
async def test_what_was_confirmed_is_not_sent_again() -> None:
    lab = await with_runs(2)
    await until(lambda: lab.shard.dispatcher.confirmed == lab.shard.sequence)
    await lab.submit(ONE_STEP, 9)  # its frame says what was confirmed before it
    found = await recovered(lab)
    assert [run for run, _, _ in found.unsent] == ["01900000-0000-7000-8000-000000000003"]


async def unsent_behind_a_snapshot() -> Lab:
    lab = await with_runs(1)
    await until(lambda: lab.shard.dispatcher.confirmed == lab.shard.sequence)
    held = asyncio.Event()

    async def never(*_: object) -> int:
        await held.wait()
        return 1

    lab.broker.publish_tasks = never
    await lab.submit(ONE_STEP, 2)
    await lab.submit(ONE_STEP, 3)
    await lab.shard.snapshot()
    return lab


@virtual
async def test_what_a_snapshot_holds_but_was_never_sent_is_sent_again_at_once() -> None:
    lab = await unsent_behind_a_snapshot()
    found = await recovered(lab)
    assert found.snapshot_sequence == found.state.sequence
    assert len(found.unsent) >= 2
    await lab.node.abort()
    del lab.broker.publish_tasks
    await lab.take()
    await lab.start()
    tasks = [*await lab.take(timeout_s=1), *await lab.take(timeout_s=1)]
    assert {task.run[-1] for task in tasks} >= {"2", "3"}
    assert all(task.claim_first and task.dispatch == 2 for task in tasks)
    await lab.stop()


@virtual
async def test_frames_of_the_snapshot_are_read_but_not_applied_twice() -> None:
    lab = await unsent_behind_a_snapshot()
    reads: list[int] = []
    read = lab.journal.read

    async def noted(partition: Partition, after: int = 0) -> AsyncIterator[Frame]:
        async for frame in read(partition, after):
            reads.append(frame.sequence)
            yield frame

    lab.journal.read = noted  # type: ignore[method-assign]
    found = await recovered(lab)
    assert reads
    assert max(reads) == found.snapshot_sequence
    assert state_hash(found.state) == state_hash(lab.shard.session.state)


@virtual
async def test_rows_that_the_store_lacks_are_projected_by_the_next_owner() -> None:
    lab = await with_runs(1)
    (task,) = await lab.take()
    await lab.finish(task)
    await lab.ended(task.run)
    behind = MemoryStore()
    behind._flows = lab.store._flows  # type: ignore[attr-defined, reportPrivateUsage]  # the flows survived, the read model did not
    lab.store = behind
    await lab.restart()
    info = await lab.ended(task.run)
    assert info.summary.status == "completed"
    assert msgspec.json.decode(info.results[0].result)["result"] == "done"
    await lab.stop()


@virtual
async def test_no_snapshot_stands_before_rows_that_are_not_stored(caplog: pytest.LogCaptureFixture) -> None:
    """A recovery from it would never project them."""
    lab = await with_runs(1)
    project, refused = lab.store.project, StoreError("the disk is full")
    refused.retryable = True

    async def full(*rows: object) -> None:
        raise refused

    lab.store.project = full  # type: ignore[method-assign, assignment]
    (task,) = await lab.take()
    await lab.finish(task)
    await until(lambda: lab.shard.projector.waiting > 0 and lab.shard.is_settled)
    await lab.shard.snapshot()
    assert not await lab.journal.snapshots(P)
    assert "rows of the read model are not stored yet" in caplog.text
    lab.store.project = project  # type: ignore[method-assign]
    await lab.shard.snapshot()
    (kept,) = await lab.journal.snapshots(P)
    row = await lab.store.get_run(task.run)
    assert row is not None
    assert (kept.sequence, row.status) == (lab.shard.sequence, "completed")
    await lab.stop()


@virtual
async def test_while_a_snapshot_is_made_workers_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "RUNS_AT_ONCE", 1)
    lab = await with_runs(3)
    await until(lambda: lab.shard.is_settled)
    snapshot = asyncio.create_task(lab.shard.snapshot())
    passes = 0
    while not snapshot.done():
        await asyncio.sleep(0)
        passes += 1
    assert passes >= 3
    (kept,) = await lab.journal.snapshots(P)
    assert kept.payload == encode_state(lab.shard.session.state)
    await lab.stop()


@virtual
async def test_a_snapshot_is_taken_after_so_many_bytes_of_journal_and_more_rarely_for_a_large_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "SNAPSHOT_BYTES", 1)
    lab = await with_runs(3)
    await asyncio.sleep(1)  # of virtual time: the last snapshot has waited for its rows
    taken = [snapshot.sequence for snapshot in await lab.journal.snapshots(P)]
    assert taken
    size = len(encode_state(lab.shard.session.state))
    lab.shard.dispatcher.journaled_bytes = 0
    await lab.submit(ONE_STEP, 1)
    assert [snapshot.sequence for snapshot in await lab.journal.snapshots(P)] == taken, (
        f"a state of {size} bytes is not kept for every frame"
    )
    await lab.stop()
