"""The client over the in-process broker: submit once whatever happens, wait, read, follow, cancel."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from stepmesh import Client, Flow, FlowInvalid, FlowNotFound, RequestRefused, RunFailed, RunNotFound, Value, WaitTimeout
from stepmesh.errors import BadFlow, BlobNotFound, BrokerUnavailable, MalformedMessage
from stepmesh_broker.protocol import api as messages
from stepmesh_broker.protocol.ids import FlowId, Namespace, Position, RunId, WorkerId, content_id, partition_of
from stepmesh_broker.protocol.messages import ComponentInfo, Refused
from stepmesh_broker.protocol.pools import ListPools, PoolEntry, Pools, WorkerEntry

FLOW = FlowId("a" * 64)
PARTITIONS = 4


@pytest.fixture
async def client(broker, api):
    limits = {"payload_bytes": 1000}
    api.answers[messages.GetInfo] = lambda request: messages.Info("1", Namespace("default"), PARTITIONS, "fsync", "sqlite", limits)
    api.answers[messages.StoreFlow] = lambda request: messages.FlowStored(FlowId(content_id(request.document)), True, b"[]")
    return Client(broker)


@pytest.fixture
async def shards(shard, another_shard):
    return [shard, *[await another_shard(n) for n in range(1, PARTITIONS)]]


async def test_submit_goes_to_the_shard_of_its_run(client, shards):
    handles = [await client.submit(FLOW, [n]) for n in range(12)]
    for handle in handles:
        shard = shards[partition_of(handle.id, PARTITIONS)]
        assert handle.id in [submit.run for submit in shard.submits]
    assert sum(len(shard.submits) for shard in shards) == 12


async def test_everything_that_submit_takes_is_sent(client, shards):
    handle = await client.submit(
        FLOW, [1, {"a": 2}], variables={"v": 1}, overrides={"steps": {}}, max_concurrency=0, run_key="order-7", tags={"team": "x"}
    )
    (submit,) = shards[partition_of("order-7", PARTITIONS)].submits
    assert submit.run == handle.id
    assert (submit.inputs, submit.variables, submit.overrides) == ([b"1", b'{"a":2}'], b'{"v":1}', b'{"steps":{}}')
    assert (submit.max_concurrency, submit.run_key, submit.tags, submit.flow) == (0, "order-7", {"team": "x"}, FLOW)


async def test_a_run_key_decides_the_partition(client, shards):
    for n in range(10):
        handle = await client.submit(FLOW, [n], run_key=f"key-{n}")
        assert partition_of(handle.id, PARTITIONS) == partition_of(f"key-{n}", PARTITIONS)


async def test_submit_is_repeated_with_the_same_run_while_the_shard_is_away(client, shards):
    for shard in shards:
        await shard.be_away()
    job = asyncio.create_task(client.submit(FLOW, [1]))
    await asyncio.sleep(15)
    assert not job.done()
    for shard in shards:
        await shard.answer_control()
    handle = await job
    assert [submit.run for shard in shards for submit in shard.submits] == [handle.id]


async def test_patience_ends(broker, client, shards):
    for shard in shards:
        await shard.be_away()
    clock = asyncio.get_running_loop().time
    began = clock()
    with pytest.raises(BrokerUnavailable):
        await client.submit(FLOW, [1])
    assert 25 < clock() - began <= 31


@pytest.mark.parametrize("inputs", [{"a": 1}, "text", b"bytes"])
async def test_inputs_is_a_list(client, inputs):
    with pytest.raises(RequestRefused) as caught:
        await client.submit(FLOW, inputs)
    assert caught.value.code == "SM-5103"


async def test_a_refusal_carries_code_hint_and_data(client, shards):
    for shard in shards:
        shard.refuse = Refused("SM-5010", "invalid input at $.a", "see the schema", b'{"path":"$.a"}')
    with pytest.raises(RequestRefused) as caught:
        await client.submit(FLOW, [1])
    assert str(caught.value) == "SM-5010 invalid input at $.a (see the schema)"
    assert caught.value.data == {"path": "$.a"}


@pytest.mark.parametrize(("code", "kind"), [("SM-5003", RunNotFound), ("SM-5004", FlowNotFound), ("SM-5005", BlobNotFound)])
async def test_not_found_has_its_own_types(client, api, code, kind):
    api.answers[messages.GetRun] = lambda request: Refused(code, "not here")
    with pytest.raises(kind):
        await client.get_run("r1")


async def test_flows_are_stored_before_they_are_submitted(client, shards, api, tmp_path):
    flow = Flow("f")
    flow.output(Value.input())
    file = tmp_path / "flow.txt"
    file.write_text(flow.to_json())
    other = tmp_path / "flow.json"
    other.write_text(flow.to_json())
    for given in (flow, flow.to_dict(), file, str(file), other):
        await client.submit(given, [1])
    assert {submit.flow for shard in shards for submit in shard.submits} == {flow.id}


async def test_an_invalid_flow_tells_its_diagnostics(client, api):
    found = [
        {"code": "SM-2001", "level": "warning", "message": "no name"},
        {"code": "SM-2007", "level": "fatal", "message": "x", "path": "$.steps"},
    ]
    api.answers[messages.StoreFlow] = lambda request: messages.FlowStored(FLOW, False, msgspec.json.encode(found))
    with pytest.raises(FlowInvalid) as caught:
        await client.store_flow({"steps": 1})
    assert "SM-2007 x at $.steps" in str(caught.value)
    assert caught.value.diagnostics == found


async def test_a_file_travels_as_it_is(client, api, tmp_path):
    (tmp_path / "odd.yaml").write_bytes(b"a: [1\n# the orchestrator says what is wrong, with its line")
    sent = []
    api.answers[messages.StoreFlow] = lambda request: sent.append(request.document) or messages.FlowStored(FLOW, True, b"[]")
    await client.store_flow(tmp_path / "odd.yaml")
    assert sent == [(tmp_path / "odd.yaml").read_bytes()]


async def test_a_file_that_is_not_there(client, tmp_path):
    with pytest.raises(BadFlow, match="cannot read"):
        await client.store_flow(tmp_path / "missing.yaml")


async def test_something_else_is_no_flow(client):
    with pytest.raises(BadFlow):
        await client.store_flow(42)


def success(result):
    return {"outcome": "success", "result": result}


async def test_run_waits_for_the_result(client, shards, api, info):
    polls = []

    def get_run(request):
        polls.append(request)
        return info(request.run, "completed", [success(7)]) if len(polls) > 2 else info(request.run, "running")

    api.answers[messages.GetRun] = get_run
    assert await client.run(FLOW, {"n": 1}) == 7
    assert all(request.wait_ms == 20_000 for request in polls)
    assert not any(isinstance(request, messages.GetItems) for request in api.asked), "the wait brings what it waits for"


async def test_several_items_give_a_list_and_the_first_failure_is_raised(client, api, info):
    failed = {"outcome": "failed", "error": {"code": "TIMEOUT", "message": "slow", "data": {"a": 1}}}
    api.answers[messages.GetRun] = lambda request: info(request.run, "completed", [success(n) for n in range(3)])
    assert await client.handle("r1").result() == [0, 1, 2]
    api.answers[messages.GetRun] = lambda request: info(request.run, "failed", [*(success(n) for n in range(3)), failed])
    with pytest.raises(RunFailed) as caught:
        await client.handle("r1").result()
    assert (caught.value.item, caught.value.error_code, caught.value.error_message, caught.value.data) == (3, "TIMEOUT", "slow", {"a": 1})
    assert caught.value.code == "SM-5101"


@pytest.mark.parametrize(("brought", "asked_from"), [(0, [0, 3]), (2, [2]), (4, [4]), (5, [])])
async def test_items_that_the_wait_did_not_bring_are_asked_for(client, api, info, brought, asked_from):
    whole = info("r1", "completed", [success(n) for n in range(5)])
    api.answers[messages.GetRun] = lambda request: messages.RunInfo(whole.summary, whole.results[:brought])
    api.answers[messages.GetItems] = lambda request: messages.Items(
        whole.results[request.first : request.first + 3], more=request.first + 3 < 5
    )
    assert await client.handle("r1").result() == [0, 1, 2, 3, 4]
    assert [request.first for request in api.asked if isinstance(request, messages.GetItems)] == asked_from


async def test_a_cancelled_run_has_no_result(client, api, info):
    whole = info("r1", "cancelled", [success(1), success(2)])
    api.answers[messages.GetRun] = lambda request: messages.RunInfo(whole.summary, whole.results[:1])
    api.answers[messages.GetItems] = lambda request: messages.Items(whole.results[:1][request.first :])
    with pytest.raises(RunFailed) as caught:
        await client.handle("r1").result()
    assert (caught.value.item, caught.value.error_code) == (1, "CANCELLED")


async def test_a_wait_without_patience_still_lets_others_work(broker, api, info):
    client = Client(broker, patience_s=0.0)
    await api.be_away()
    job = asyncio.create_task(client.handle("r1").wait())
    await asyncio.sleep(30)
    api.answers[messages.GetRun] = lambda request: info("r1")
    await api.open()
    assert (await job).summary.status == "completed"


async def test_items_are_paged(client, api):
    def get_items(request):
        last = min(request.first + request.limit, 2500)
        return messages.Items([messages.ItemResult(n, "completed", b"{}", 1) for n in range(request.first, last)], more=last < 2500)

    api.answers[messages.GetItems] = get_items
    assert [item.item async for item in client.handle("r1").items()] == list(range(2500))
    assert [request.first for request in api.asked] == [0, 1000, 2000]


async def test_a_wait_ends_at_its_time_limit_and_the_run_goes_on(client, api, info):
    async def get_run(request):
        await asyncio.sleep(request.wait_ms / 1000)
        return info(request.run, "running")

    api.answers[messages.GetRun] = get_run
    clock = asyncio.get_running_loop().time
    began = clock()
    with pytest.raises(WaitTimeout) as caught:
        await client.handle("r1").wait(50.0)
    assert clock() - began == pytest.approx(50.0, abs=1)
    assert caught.value.code == "SM-5102"


async def test_events_follow_across_pages_and_resume(client, api):
    events = [messages.RunEvent(n, n, "step_completed", RunId("r1"), 0, "s", b"{}") for n in range(1, 6)]

    def get_events(request):
        page = [event for event in events if event.position > request.after][:2]
        return messages.Events(page, ended=bool(page) and page[-1].position == 5)

    api.answers[messages.GetEvents] = get_events
    assert [event.position async for event in client.events("r1")] == [1, 2, 3, 4, 5]
    assert [request.after for request in api.asked] == [0, 2, 4]
    assert [event.position async for event in client.events("r1", after=3)] == [4, 5]


async def test_events_without_follow_end_with_what_is_there(client, api):
    event = messages.RunEvent(1, 1, "run_created", RunId("r1"), None, None, b"{}")
    api.answers[messages.GetEvents] = lambda request: messages.Events([] if request.after else [event], ended=False)
    assert [one.position async for one in client.events("r1", follow=False)] == [1]
    assert all(request.wait_ms == 0 for request in api.asked)


async def test_cancel_goes_to_the_partition_that_the_run_lives_on(client, api, info, shards):
    api.answers[messages.GetRun] = lambda request: info(request.run, "running", partition=2)
    await client.cancel("r1", "changed my mind")
    (cancel,) = shards[2].cancels
    assert (cancel.run, cancel.reason) == ("r1", "changed my mind")


async def test_runs_and_flows_are_deleted_and_refusals_are_raised(client, api):
    api.answers[messages.DeleteRun] = lambda request: messages.Deleted() if request.run == "r1" else Refused("SM-5003", "there is no run")
    api.answers[messages.DeleteFlow] = lambda request: messages.Deleted() if request.flow == "f1" else Refused("SM-5013", "used", "wait")
    await client.delete_run("r1")
    await client.delete_flow("f1")
    assert api.asked == [messages.DeleteRun(RunId("r1")), messages.DeleteFlow(FlowId("f1"))]
    with pytest.raises(RunNotFound):
        await client.delete_run("r2")
    with pytest.raises(RequestRefused) as caught:
        await client.delete_flow("f2")
    assert caught.value.code == "SM-5013"


async def test_lists(client, api, info):
    api.answers[messages.ListRuns] = lambda request: messages.Runs([info("r1").summary])
    api.answers[messages.ListComponents] = lambda request: messages.Components(
        [messages.ComponentEntry("/cpu/parse", "cpu", ComponentInfo("/parse"), 2)]
    )
    api.answers[ListPools] = lambda request: Pools([PoolEntry("cpu", 1, 2, [WorkerEntry(WorkerId("w"), 1, 0, "1", 5)])])
    api.answers[messages.Explain] = lambda request: messages.Explained(["step s waits for a worker"])
    assert [run.run for run in await client.list_runs(status="completed", limit=5, roots_only=True)] == ["r1"]
    assert (api.asked[-1].status, api.asked[-1].limit, api.asked[-1].roots_only) == ("completed", 5, True)
    assert [entry.path for entry in await client.components()] == ["/cpu/parse"]
    assert [pool.queued for pool in await client.pools()] == [1]
    assert await client.explain("r1") == ["step s waits for a worker"]


async def test_blobs(client, api):
    api.answers[messages.PutBlob] = lambda request: messages.BlobStored(content_id(request.data))
    api.answers[messages.GetBlob] = lambda request: messages.BlobData(request.blob, "data", b'{"a":1}')
    assert await client.put_blob({"a": 1}) == content_id(b'{"a":1}')
    assert await client.get_blob("x") == {"a": 1}


async def test_an_answer_of_the_wrong_kind_is_said(client, api):
    api.answers[messages.Explain] = lambda request: messages.Runs([])
    with pytest.raises(MalformedMessage, match="Explain was answered with Runs"):
        await client.explain("r1")


async def test_a_borrowed_connection_stays_open(broker, api, client):
    async with Client(broker):
        pass
    await broker.post(0, b"still open")
    assert await (await broker.inbox(0, Position(0))).fetch(1, 1.0)
