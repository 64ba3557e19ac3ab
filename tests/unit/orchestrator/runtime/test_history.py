"""History: pages of a run's events, sub-runs included, and followers that read each frame once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from tests.unit.orchestrator.runtime.lab import ONE_STEP, Lab, until, virtual

from stepmesh_broker.protocol import api, subjects
from stepmesh_broker.protocol.codec import decode_api_answer, encode
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.core.projection import run_row
from stepmesh_orchestrator.core.rows import RunRow
from stepmesh_orchestrator.ports import Frame
from stepmesh_orchestrator.runtime import history
from stepmesh_orchestrator.runtime.history import PER_FRAME, History

INNER: dict[str, Any] = {"steps": [{"id": "x", "component": "/py/work", "input": {"$input": "$"}}], "output": {"$step": "x"}}
MAP: dict[str, Any] = {
    "name": "outer",
    "steps": [{"id": "m", "component": "/builtin/map", "input": {"items": {"$input": "$"}, "workflow": {"$literal": INNER}}}],
    "output": {"$step": "m"},
}


class Story:
    """A history over a lab's journal that notes which frames were read."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.reads: list[int] = []
        read = lab.journal.read

        async def noted(partition: Partition, after: int = 0) -> AsyncIterator[Frame]:
            async for frame in read(partition, after):
                self.reads.append(frame.sequence)
                yield frame

        lab.journal.read = noted  # type: ignore[method-assign]
        self.history = History(lab.journal, lab.node.flows)

    async def row(self, run: RunId) -> RunRow:
        state = self.lab.shard.session.state
        live = state.runs.get(run)
        stored = await self.lab.store.get_run(run) if live is None else run_row(state, live)
        assert stored is not None
        return stored

    async def page(self, run: RunId, after: int = 0, limit: int = 1_000, max_bytes: int = 1_000_000) -> api.Events:
        self.reads.clear()
        return await self.history.page(await self.row(run), after, limit, max_bytes)


async def ended_run(document: dict[str, Any] = ONE_STEP, value: Any = 1) -> tuple[Lab, RunId]:
    lab = await Lab().start()
    run = await lab.submit(document, value)
    while run in lab.shard.session.state.runs:
        await lab.finish(*await lab.take(timeout_s=0.1))
    await lab.ended(run)
    return lab, run


@virtual
async def test_a_run_is_told_from_its_creation_to_its_end() -> None:
    lab, run = await ended_run()
    page = await Story(lab).page(run)
    kinds = [event.kind for event in page.events]
    assert kinds == [
        "run_created", "item_started", "steps_needed", "step_ready", "step_started", "step_completed", "item_completed", "run_completed",
    ]  # fmt: skip
    assert page.ended
    assert [event.step_id for event in page.events] == [None, None, None, "a", "a", "a", None, None]
    positions = [event.position for event in page.events]
    assert positions == sorted(positions)
    assert len(set(positions)) == 6, "what follows from an event has its position"
    assert all(position >= PER_FRAME for position in positions)
    await lab.stop()


@virtual
async def test_sub_runs_are_told_with_it_and_other_runs_are_not() -> None:
    lab, run = await ended_run(MAP, [1, 2])
    await lab.submit()
    page = await Story(lab).page(run)
    created = [event.run for event in page.events if event.kind == "run_created"]
    assert created[0] == run
    assert len(created) == 2
    assert {event.run for event in page.events} == set(created)
    assert {event.step_id for event in page.events if event.run == created[1] and event.step_id} == {"x"}
    child = await Story(lab).page(created[1])
    assert {event.run for event in child.events} == {created[1]}
    assert child.ended
    await lab.stop()


@virtual
async def test_pages_of_any_size_make_up_the_whole() -> None:
    lab, run = await ended_run(MAP, [1, 2, 3])
    whole = await Story(lab).page(run)
    for limit in (1, 2, 3, len(whole.events) - 1, len(whole.events)):
        story, after, told = Story(lab), 0, []
        while True:
            page = await story.page(run, after, limit)
            assert len(page.events) <= limit or len({event.position for event in page.events}) == 1
            told += page.events
            if page.ended:
                break
            assert page.events
            after = page.events[-1].position
        assert told == whole.events
    await lab.stop()


@virtual
async def test_pages_are_bounded_by_bytes_but_never_empty_for_that() -> None:
    lab, run = await ended_run(ONE_STEP, "x" * 1_000)
    story, after, pages = Story(lab), 0, 0
    while not (page := await story.page(run, after, max_bytes=1)).ended:
        assert len({event.position for event in page.events}) == 1
        after = page.events[-1].position
        pages += 1
    assert pages == 5
    await lab.stop()


@virtual
async def test_any_position_can_be_resumed_from_also_by_a_history_that_knows_nothing() -> None:
    lab, run = await ended_run(MAP, [1, 2])
    whole = (await Story(lab).page(run)).events
    for event in whole:
        rest = await Story(lab).page(run, event.position)
        assert rest.events == [later for later in whole if later.position > event.position]
        assert rest.ended
    await lab.stop()


@virtual
async def test_two_readers_at_different_places_do_not_disturb_each_other() -> None:
    lab, run = await ended_run(MAP, [1, 2])
    story = Story(lab)
    whole = (await story.page(run)).events
    assert (await story.page(run, whole[3].position)).events == whole[4:]
    assert (await story.page(run, 0, limit=4)).events == whole[:4]
    assert (await story.page(run, whole[-2].position)).events == whole[-1:]
    await lab.stop()


@virtual
async def test_a_follower_reads_each_frame_once() -> None:
    lab = await Lab().start()
    run = await lab.submit()
    story = Story(lab)
    first = await story.page(run)
    after = first.events[-1].position
    for _ in range(20):
        await lab.submit()
    quiet = await story.page(run, after)
    assert (quiet.events, quiet.ended) == ([], False)
    assert len(story.reads) >= 20
    await story.page(run, after)
    assert story.reads == [], "what was read without finding anything is not read again"
    await lab.submit()
    await story.page(run, after)
    assert len(story.reads) == 1
    await lab.stop()


@virtual
async def test_after_the_end_nothing_is_read() -> None:
    lab, run = await ended_run()
    story = Story(lab)
    last = (await story.page(run)).events[-1].position
    page = await story.page(run, last)
    assert (page.events, page.ended, story.reads) == ([], True, [])
    await lab.stop()


@virtual
async def test_forgetting_a_family_costs_a_scan_and_nothing_else(monkeypatch: Any) -> None:
    monkeypatch.setattr(history, "KEPT", 1)
    lab, run = await ended_run(MAP, [1, 2])
    other = await lab.submit()
    story = Story(lab)
    whole = (await story.page(run)).events
    await story.page(other)
    assert (await story.page(run, whole[4].position)).events == whole[5:]
    await lab.stop()


# --- followers through the api ---


async def follow(lab: Lab, run: RunId, after: int, wait_ms: int = 60_000) -> api.Events:
    return await lab.ask(api.GetEvents(run, after, 1_000, wait_ms), api.Events)


@virtual
async def test_a_follower_hears_of_sub_runs_at_once() -> None:
    lab = await Lab().start()
    run = await lab.submit(MAP, [1, 2])
    tasks = [task for _ in range(2) for task in await lab.take(timeout_s=0.1)]
    last = (await follow(lab, run, 0)).events[-1].position
    clock = asyncio.get_running_loop().time
    began = clock()
    following = asyncio.create_task(follow(lab, run, last))
    await asyncio.sleep(1)
    assert not following.done()
    await lab.finish(tasks[0])
    page = await following
    assert clock() - began < 1.5
    assert [event.kind for event in page.events] == ["step_completed", "item_completed"]
    assert page.events[0].run != run
    await lab.stop()


@virtual
async def test_what_happens_between_a_look_and_the_wait_is_not_missed() -> None:
    lab = await Lab().start()
    run = await lab.submit()
    (task,) = await lab.take()
    last = (await follow(lab, run, 0)).events[-1].position
    read = lab.journal.read
    meanwhile = True

    async def slow(partition: Partition, after: int = 0) -> AsyncIterator[Frame]:
        nonlocal meanwhile
        async for frame in read(partition, after):
            yield frame
        if meanwhile:
            meanwhile = False
            await lab.finish(task)
            await until(lambda: run not in lab.shard.session.state.runs and lab.shard.is_settled)

    lab.journal.read = slow  # type: ignore[method-assign]
    clock = asyncio.get_running_loop().time
    began = clock()
    page = await follow(lab, run, last)
    assert page.ended
    assert clock() - began < 1
    await lab.stop()


@virtual
async def test_a_follower_of_a_quiet_run_is_answered_in_its_time() -> None:
    lab = await Lab().start()
    run = await lab.submit()
    last = (await follow(lab, run, 0)).events[-1].position
    clock = asyncio.get_running_loop().time
    began = clock()
    busy = asyncio.create_task(noise(lab))
    page = await follow(lab, run, last, 5_000)
    assert (page.events, page.ended) == ([], False)
    assert 5.0 <= clock() - began < 5.1
    busy.cancel()
    await lab.stop()


async def noise(lab: Lab) -> None:
    while True:
        await lab.submit()
        await asyncio.sleep(0.3)


@virtual
async def test_a_run_that_began_before_what_the_journal_holds_is_followed_from_there_on() -> None:
    lab = await Lab().start()
    run = await lab.submit(MAP, [1, 2])
    (first,), (second,) = await lab.take(), await lab.take()
    await lab.shard.snapshot()
    kept = lab.shard.sequence
    await lab.journal.trim(Partition(0), kept)
    refused = decode_api_answer(await lab.client.request(subjects.api(lab.namespace), encode(api.GetEvents(run)), 5))
    assert isinstance(refused, Refused)
    assert (refused.code, "retentionHours" in refused.hint) == ("SM-4004", True)
    told: list[api.RunEvent] = []
    for task in (first, second):
        await lab.finish(task)
        await until(lambda: lab.shard.sequence > kept)
        await asyncio.sleep(1)
        after = told[-1].position if told else (kept + 1) * PER_FRAME - 1
        page = await lab.ask(api.GetEvents(run, after), api.Events)
        told += page.events
        assert page.ended == (task is second)
    assert [(one.kind, one.step_id) for one in told if one.run == first.run and one.kind.startswith("step")] == [
        ("step_completed", "x"),
        ("step_completed", "x"),
    ]
    assert [(one.kind, one.step_id) for one in told if one.run == run][-3:] == [
        ("step_completed", "m"),
        ("item_completed", None),
        ("run_completed", None),
    ]
    await lab.stop()
