"""What the api tells of variables, pools, live items, and where a run's events lie."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from tests.unit.orchestrator.runtime.lab import ONE_STEP, W1, Lab, js, until, virtual

from stepmesh_broker.memory import MemoryBus
from stepmesh_broker.protocol import api, subjects
from stepmesh_broker.protocol.codec import encode
from stepmesh_broker.protocol.ids import FlowId, Pool, RunId
from stepmesh_broker.protocol.messages import Cancel, Hello, Refused

CHILD: dict[str, Any] = {
    "name": "outer",
    "steps": [{"id": "m", "component": "/builtin/eval", "input": {"flow": {"$literal": ONE_STEP}, "input": 1}}],
    "output": {"$step": "m"},
}


def declaring(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    variables = {"type": "object", "properties": properties, "required": list(required)}
    return {**ONE_STEP, "schemas": {"type": "object", "properties": {"variables": variables}}}


@virtual
async def test_variables_are_told_in_the_order_of_the_flow() -> None:
    lab = await Lab().start()
    key = {"type": "string", "description": "who pays", "is_secret": True, "env_var": "API_KEY", "default": "hush"}
    flow = await lab.flow(
        declaring({"zone": {"type": "string"}, "key": key, "big": {"type": "integer", "default": 2**60}, "any": {}}, "zone")
    )
    answer = await lab.ask(api.GetVariables(flow), api.Variables)
    zone, secret, big, anything = answer.variables
    assert (answer.flow, [one.name for one in answer.variables]) == (flow, ["zone", "key", "big", "any"])
    assert (zone.required, zone.default, zone.description, zone.secret, zone.schema) == (True, None, None, False, b'{"type":"string"}')
    assert (secret.required, secret.default, secret.env_var, secret.description) == (False, None, "API_KEY", "who pays")
    assert secret.secret
    assert b"hush" not in secret.schema
    assert big.default == b"1152921504606846976"
    assert anything.default is None
    assert (await lab.ask(api.GetVariables(FlowId("0" * 64)), Refused)).code == "SM-5004"
    assert (await lab.ask(api.GetVariables(await lab.flow(ONE_STEP)), api.Variables)).variables == []
    await lab.stop()


@virtual
async def test_documents_and_blobs_keep_their_digits_and_the_order_of_their_keys() -> None:
    lab = await Lab().start()
    text = b'{"z":12345678901234567890123,"a":1.5,"m":{"y":true,"b":-1},"k":"\xc3\xa9"}'
    blob = await lab.ask(api.PutBlob(text), api.BlobStored)
    assert (await lab.ask(api.GetBlob(blob.blob), api.BlobData)).data == text
    again = await lab.ask(api.PutBlob(text.replace(b",", b" , ")), api.BlobStored)
    assert again.blob == blob.blob
    flow = await lab.flow({**ONE_STEP, "metadata": {"z": 2**70, "a": 1}})
    document = (await lab.ask(api.GetFlow(flow), api.FlowData)).document
    assert b'"metadata":{"z":1180591620717411303424,"a":1}' in document
    run = await lab.submit(ONE_STEP, 2**70)
    (task,) = await lab.take()
    assert task.input == b"1180591620717411303424"
    await lab.finish(task, output={"z": 2**70, "a": 1})
    assert (await lab.ended(run)).results[0].result == b'{"outcome":"success","result":{"z":1180591620717411303424,"a":1}}'
    await lab.stop()


@virtual
async def test_a_flow_put_as_a_blob_can_be_submitted_by_its_id_and_be_a_sub_run() -> None:
    lab = await Lab().start()
    flow = FlowId((await lab.ask(api.PutBlob(js(ONE_STEP), "flow"), api.BlobStored)).blob)
    outer = {"steps": [{"id": "e", "component": "/builtin/eval", "input": {"flow_id": flow, "input": 5}}], "output": {"$step": "e"}}
    run = await lab.submit(outer)
    (task,) = await lab.take()
    assert (task.input, task.flow, task.root) == (b"5", flow, run)
    await lab.finish(task)
    assert (await lab.result(run))["result"]["result"] == {"outcome": "success", "result": "done"}
    direct = await lab.submit(ONE_STEP)
    assert (await lab.ask(api.GetRun(direct), api.RunInfo)).summary.flow == flow
    await lab.stop()


# --- pools ---


@virtual
async def test_queues_are_those_of_the_configuration() -> None:
    lab = Lab()
    queue = api.Queue(Pool("py"), "python", "grpc", "/python")
    lab.settings = replace(lab.settings, queues=(queue,))
    await lab.start()
    assert await lab.ask(api.ListQueues(), api.Queues) == api.Queues([queue], open=False)
    await lab.stop()
    other = await Lab().start()
    assert await other.ask(api.ListQueues(), api.Queues) == api.Queues([], open=True)
    await other.stop()


@virtual
async def test_pools_that_were_never_heard_are_silent() -> None:
    lab = Lab()
    lab.settings = replace(lab.settings, queues=(api.Queue(Pool("py"), "py", "grpc"), api.Queue(Pool("gpu"), "gpu", "nats")))
    await lab.start()

    async def silent() -> list[str]:
        return [*(await lab.ask(api.ListComponents(), api.Components)).silent]

    assert await silent() == ["gpu", "py"]
    await lab.client.send(subjects.presence(lab.namespace), encode(Hello(W1, Pool("py"), 8, "1.2", [])))
    await asyncio.sleep(0.01)
    assert await silent() == ["gpu"]
    await lab.submit({"steps": [{"id": "a", "component": "/far/x"}], "output": {"$step": "a"}})
    assert await silent() == ["far", "gpu"]
    await asyncio.sleep(60)
    assert await silent() == ["far", "gpu"], "its components are known, though the worker left"
    await lab.stop()


# --- items as they end ---


@virtual
async def test_items_of_a_batch_show_one_by_one_as_they_end() -> None:
    lab = await Lab().start()
    run = await lab.submit(ONE_STEP, *range(4), max_concurrency=2)
    statuses, flying = ["running"] * 4, await lab.take()
    for done in range(1, 5):
        flying += await lab.take(timeout_s=0.1)
        task = flying.pop()
        await lab.finish(task, output=task.item * 10)
        statuses[task.item] = "success"
        await until(lambda done=done: _ended_items(lab, run) == done)  # type: ignore[misc]  # bound now
        items = (await lab.ask(api.GetItems(run, live=True), api.Items)).results
        assert [item.status for item in items] == statuses
        plain = (await lab.ask(api.GetItems(run), api.Items)).results
        assert [(item.item, json.loads(item.result)["result"]) for item in plain] == [
            (index, index * 10) for index, status in enumerate(statuses) if status == "success"
        ]
        summary = (await lab.ask(api.GetRun(run), api.RunInfo)).summary
        assert (summary.completed, summary.total) == (done, 4)
    await lab.stop()


def _ended_items(lab: Lab, run: RunId) -> int:
    live = lab.shard.session.state.runs.get(run)
    return 4 if live is None else live.ended_items


@virtual
async def test_live_items_are_paged_and_those_that_a_cancel_kept_from_starting_are_cancelled() -> None:
    lab = await Lab(bus=MemoryBus(max_message_bytes=20_000)).start()
    run = await lab.submit(ONE_STEP, *range(6), max_concurrency=1)
    (task,) = await lab.take()
    await lab.finish(task, output="x" * 4_000)
    await lab.take()
    first = await lab.ask(api.GetItems(run, 0, 2, live=True), api.Items)
    assert ([(item.item, item.status) for item in first.results], first.more) == ([(0, "success"), (1, "running")], True)
    last = await lab.ask(api.GetItems(run, 4, 2, live=True), api.Items)
    assert ([(item.item, item.status, item.result, item.finished_ms) for item in last.results], last.more) == (
        [(4, "running", b"", 0), (5, "running", b"", 0)],
        False,
    )
    await lab.control(Cancel(run))
    items = (await lab.ask(api.GetItems(run, live=True), api.Items)).results
    assert [item.status for item in items] == ["success", *["cancelled"] * 5]
    assert all(json.loads(item.result)["error"]["code"] == "CANCELLED" and item.finished_ms for item in items[1:])
    assert (await lab.ask(api.GetItems(run, 6, live=True), api.Items)).results == []
    await lab.stop()


@virtual
async def test_live_items_are_bounded_by_bytes_without_taking_ended_ones_for_running() -> None:
    lab = await Lab(bus=MemoryBus(max_message_bytes=20_000)).start()
    run = await lab.submit(ONE_STEP, *range(6), max_concurrency=0)
    tasks = [task for _ in range(6) for task in await lab.take(timeout_s=0.1)]
    for task in tasks[:5]:
        await lab.finish(task, output="x" * 4_000)
    await until(lambda: lab.shard.session.state.runs[run].completed == 5)
    found: list[tuple[int, str]] = []
    more = True
    while more:
        page = await lab.ask(api.GetItems(run, len(found), live=True), api.Items)
        found += [(item.item, item.status) for item in page.results]
        more = page.more
    left = ({0, 1, 2, 3, 4, 5} - {task.item for task in tasks[:5]}).pop()
    assert found == [(index, "running" if index == left else "success") for index in range(6)]
    await lab.stop()


# --- where events lie ---


@virtual
async def test_a_summary_names_the_events_that_created_and_ended_the_run_and_its_owner() -> None:
    lab = Lab()
    lab.settings = replace(lab.settings, owner="node-7")
    await lab.start()
    await lab.submit()
    run = await lab.submit(CHILD)
    tasks = [task for _ in range(2) for task in await lab.take(timeout_s=0.1)]
    live = (await lab.ask(api.GetRun(run), api.RunInfo)).summary
    assert (live.owner, live.finished_at) == ("node-7", None)
    await lab.shard.snapshot()
    await lab.restart()
    assert (await lab.ask(api.GetRun(run), api.RunInfo)).summary.created_at == live.created_at
    await lab.finish(*tasks)
    await lab.ended(run)
    events = (await lab.ask(api.GetEvents(run), api.Events)).events
    for listed in (await lab.ask(api.ListRuns(root=run), api.Runs)).runs:
        (created,) = [event for event in events if event.kind == "run_created" and event.run == listed.run]
        (over,) = [event for event in events if event.kind == "run_completed" and event.run == listed.run]
        assert (listed.created_at, listed.finished_at, listed.owner) == (created.position, over.position, "")
    listed_runs = (await lab.ask(api.ListRuns(max_depth=0), api.Runs)).runs
    assert all(one.parent is None for one in listed_runs)
    assert len((await lab.ask(api.ListRuns(root=run, max_depth=1), api.Runs)).runs) == 2
    await lab.stop()


@virtual
async def test_a_step_tells_the_position_of_its_last_event() -> None:
    lab = await Lab().start()
    run = await lab.submit(ONE_STEP, 1, 2, max_concurrency=0)
    tasks = [task for _ in range(2) for task in await lab.take(timeout_s=0.1)]
    await lab.finish(tasks[0])
    await until(lambda: lab.shard.session.state.runs[run].completed == 1)
    await lab.shard.snapshot()
    await lab.restart()
    steps = (await lab.ask(api.GetSteps(run), api.Steps)).steps
    events = (await lab.ask(api.GetEvents(run), api.Events)).events
    for step in steps:
        told = [event.position for event in events if event.item == step.item and event.step_id == step.step_id]
        assert step.position == told[-1]
    assert len(steps) == 2
    await lab.stop()
