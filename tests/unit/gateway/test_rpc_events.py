"""stepflow.v1 GetRunEvents: the order, the filters, the end, and taking a stream up again."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict
from tests.unit.gateway.door import Client, Workshop, details, one_step

CREATED, STARTED, STEP_COMPLETED, READY, ITEM_COMPLETED, RUN_COMPLETED, SUB_CREATED, NEEDED = range(1, 9)


async def events(client: Client, run: str, **fields: Any) -> list[Any]:
    return [event async for event in client.stream("RunsService/GetRunEvents", run_id=run, **fields)]


def kinds(found: list[Any]) -> list[str]:
    return [event.WhichOneof("event") for event in found]


async def test_the_story_of_a_run(client: Client) -> None:
    done = (await client.run(one_step(), 5)).summary
    found = await events(client, done.run_id)
    assert kinds(found) == [
        "run_created", "steps_needed", "step_ready", "step_started", "step_completed", "item_completed", "run_completed",
    ]  # fmt: skip
    created, needed, ready, started, completed, item, ended = found
    assert (created.run_created.flow_id, created.run_created.item_count) == (done.flow_id, 1)
    assert list(needed.steps_needed.step_ids) == ["a"]
    assert (ready.step_ready.step_id, ready.step_ready.step_index) == ("a", 0)
    assert (started.step_started.attempt, started.step_started.step_id) == (1, "a")
    assert (completed.step_completed.status, completed.step_completed.HasField("result")) == (2, False)
    assert not item.item_completed.HasField("result")
    assert ended.run_completed.status == 2
    assert (created.sequence_number, ended.sequence_number) == (done.created_at_seqno, done.finished_at_seqno)
    numbers = [event.sequence_number for event in found]
    assert numbers == sorted(numbers)
    assert all(event.timestamp.ToMilliseconds() >= done.created_at.ToMilliseconds() for event in found)


async def test_results_only_for_who_asks(client: Client) -> None:
    run = (await client.run(one_step(), 5)).summary.run_id
    found = await events(client, run, include_results=True)
    assert [MessageToDict(getattr(one, one.WhichOneof("event")).result) for one in found if one.HasField("step_completed")] == [10]
    assert [MessageToDict(one.item_completed.result) for one in found if one.HasField("item_completed")] == [10]


async def test_steps_have_their_index(client: Client) -> None:
    flow = one_step()
    flow["steps"].append({"id": "b", "component": "/py/double", "input": {"$step": "a"}})
    flow["output"] = {"$step": "b"}
    run = (await client.run(flow, 1)).summary.run_id
    found = await events(client, run, event_types=[STARTED])
    assert [(one.step_started.step_index, one.step_started.step_id) for one in found] == [(0, "a"), (1, "b")]


async def test_a_failed_step_and_its_run(client: Client) -> None:
    run = (await client.run(one_step("/py/boom"), None)).summary.run_id
    found = await events(client, run, event_types=[STEP_COMPLETED, RUN_COMPLETED], include_results=True)
    assert (found[0].step_completed.status, found[0].step_completed.HasField("result")) == (3, False)
    assert found[1].run_completed.status == 3


async def test_a_filter_that_hides_the_end_still_ends(client: Client) -> None:
    run = (await client.run(one_step(), 5)).summary.run_id
    assert kinds(await events(client, run, event_types=[ITEM_COMPLETED])) == ["item_completed"]
    assert kinds(await events(client, run, event_types=[SUB_CREATED])) == []


async def test_since_counts_the_event_that_it_names(client: Client) -> None:
    run = (await client.run(one_step(), 5, 6)).summary.run_id
    found = await events(client, run)
    for event in found:
        rest = await events(client, run, since=event.sequence_number)
        assert rest == [one for one in found if one.sequence_number >= event.sequence_number]
    assert await events(client, run, since=found[-1].sequence_number + 1) == []
    assert await events(client, run, since=2**64 - 1) == []


async def test_a_stream_that_is_taken_up_again_misses_nothing(client: Client, workshop: Workshop) -> None:
    run = (await client.submit(one_step("/py/gate"), "a", "b")).summary.run_id
    stream = client.stream("RunsService/GetRunEvents", run_id=run)
    first = [await stream.read() for _ in range(3)]
    stream.cancel()
    workshop.let("a")
    workshop.let("b")
    rest = await events(client, run, since=first[-1].sequence_number)
    everything = await events(client, run)
    kept = [event for event in first if event.sequence_number < first[-1].sequence_number]
    assert kept + rest == everything


async def test_events_come_as_they_happen(client: Client, workshop: Workshop) -> None:
    run = (await client.submit(one_step("/py/gate"), "a", "b")).summary.run_id
    stream = client.stream("RunsService/GetRunEvents", run_id=run, event_types=[ITEM_COMPLETED, RUN_COMPLETED])
    workshop.let("b")
    assert (await stream.read()).item_completed.item_index == 1
    workshop.let("a")
    assert (await stream.read()).item_completed.item_index == 0
    assert (await stream.read()).run_completed.status == 2
    assert await stream.read() is grpc.aio.EOF


async def test_sub_runs_only_for_who_asks(client: Client) -> None:
    child = (await client.store(one_step())).flow_id
    parent = one_step("/builtin/eval", steps=[{"id": "e", "component": "/builtin/eval", "input": {"flow_id": child, "input": 3}}])
    parent["output"] = {"$step": "e"}
    root = (await client.run(parent, None)).summary.run_id
    own = await events(client, root)
    assert {getattr(one, one.WhichOneof("event")).run_id for one in own} == {root}
    both = await events(client, root, include_sub_runs=True)
    (born,) = [one.sub_run_created for one in both if one.HasField("sub_run_created")]
    assert (born.parent_run_id, born.flow_id, born.item_count) == (root, child, 1)
    assert kinds(both)[-1] == "run_completed"
    assert both[-1].run_completed.run_id == root
    alone = await events(client, born.run_id)
    assert kinds(alone)[0] == "sub_run_created"
    assert alone[-1].run_completed.run_id == born.run_id
    assert alone == [one for one in both if getattr(one, one.WhichOneof("event")).run_id == born.run_id]


async def test_event_types_that_are_none(client: Client) -> None:
    run = (await client.run(one_step(), 5)).summary.run_id
    for strange in (0, 9, 2**31 - 1, -1):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await events(client, run, event_types=[strange])
        assert (caught.value.code(), details(caught.value)[0].reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SM-7002")
