"""The context: names, keys that outlive attempts, sub-runs that hold no slot, blobs, logs; and Stepflow's iterate as written."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pydantic
import pytest

from stepmesh import ErrorCode, Flow, Value, WaitTimeout, Worker, current_context
from stepmesh.compat import StepflowContext, StepflowValueError
from stepmesh.errors import NoContext
from stepmesh_broker.protocol.api import BlobData, BlobStored, FlowStored, GetBlob, GetRun, PutBlob, StoreFlow
from stepmesh_broker.protocol.ids import BlobId, FlowId, child_run_id, content_id
from stepmesh_broker.protocol.messages import Refused

FLOW = "a" * 64


@pytest.fixture
def orchestrator(shard, api, info):
    """Sub-runs end at once; each gives the result that `evaluate` computes from its input."""

    class Orchestrator:
        evaluate = staticmethod(lambda value: value)

        def get_run(self, request):
            submit = next(one for one in shard.submits if one.run == request.run)
            results = [self.evaluate(msgspec.json.decode(text)) for text in submit.inputs]
            wrapped = [r if isinstance(r, dict) and "outcome" in r else {"outcome": "success", "result": r} for r in results]
            return info(request.run, "completed", wrapped)

    one = Orchestrator()
    api.answers[GetRun] = lambda request: one.get_run(request)
    api.answers[StoreFlow] = lambda request: FlowStored(FlowId(content_id(request.document)), True, b"[]")
    return one


async def outputs(running, shard, worker, *tasks):
    async with running(worker):
        await shard.send(*tasks)
        results = await shard.until_results(len(tasks))
    return [result.failure or msgspec.json.decode(result.output) for result in sorted(results, key=lambda result: result.step)]


async def test_what_a_context_tells(shard, running, task):
    worker = Worker("cpu")
    run, root = task("/x").run, "0192a000-0000-7000-8000-0000000000ff"

    @worker.component
    async def tell(context):
        return [
            context.run_id,
            context.root_run_id,
            context.item,
            context.step_id,
            context.component,
            context.attempt,
            context.idempotency_key,
            context.deadline,
            dict(context.path_params),
            context.traceparent,
            context.cancelled,
        ]

    told, other = await outputs(
        running,
        shard,
        worker,
        task("/tell", step=0, item=4, attempt=2, root=root, path_params={"a": "b"}, traceparent="00-x"),
        task("/tell", step=1),
    )
    assert told == [run, root, 4, "s0", "/tell", 2, f"{root}/{run}/4/s0", None, {"a": "b"}, "00-x", False]
    assert other[6] == f"{run}/{run}/0/s1", "without a root the run is its own"


async def test_the_idempotency_key_is_the_same_in_every_attempt(shard, running, task):
    worker = Worker("cpu")

    @worker.component
    async def key(context):
        return context.idempotency_key

    first, second = await outputs(running, shard, worker, task("/key", attempt=1), task("/key", attempt=2))
    assert first == second


def test_there_is_no_context_outside_a_component():
    with pytest.raises(NoContext) as caught:
        current_context()
    assert caught.value.code == "SM-6102"


async def test_a_sub_run_is_linked_and_goes_to_the_shard_of_the_root(another_shard, orchestrator, shard, running, task):
    second = await another_shard(7)
    shard.submits = second.submits
    worker = Worker("cpu")
    root = "0192a000-0000-7000-8000-0000000000ff"

    @worker.component
    async def parent(context):
        return await context.evaluate_flow_by_id(FLOW, {"n": 1})

    async with running(worker):
        await second.send(task("/parent", step=3, item=2, root=root, traceparent="00-t"))
        (result,) = await second.until_results(1)
    assert msgspec.json.decode(result.output) == {"n": 1}
    (submit,) = second.submits
    run = task("/x").run
    assert submit.run == child_run_id(run, "2/3/#1")
    assert (submit.parent.root, submit.parent.run, submit.parent.item, submit.parent.step, submit.parent.key) == (root, run, 2, 3, "#1")
    assert (submit.flow, submit.inputs, submit.traceparent) == (FLOW, [b'{"n":1}'], "00-t")


async def test_a_later_attempt_asks_for_the_same_sub_runs(shard, running, task, orchestrator):
    worker = Worker("cpu")

    @worker.component
    async def parent(context):
        for n in range(2):
            await context.evaluate_flow_by_id(FLOW, n)
        await context.evaluate_flow_by_id(FLOW, 9, key="mine")

    await outputs(running, shard, worker, task("/parent", attempt=1), task("/parent", attempt=2))
    runs = [submit.run for submit in shard.submits]
    assert len(runs) == 6
    assert len(set(runs)) == 3
    assert {submit.parent.key for submit in shard.submits} == {"#1", "#2", "mine"}


async def test_waiting_for_a_sub_run_holds_no_slot(shard, api, info, running, task):
    """One slot; the parent waits for a run that ends only when another task of the same worker ran."""
    worker = Worker("cpu", concurrency=1)
    done = asyncio.Event()

    async def get_run(request):
        await done.wait()
        return info(request.run, "completed", [{"outcome": "success", "result": "child"}])

    api.answers[GetRun] = get_run

    @worker.component
    async def parent(context):
        await asyncio.sleep(0.1)
        return await context.evaluate_flow_by_id(FLOW, None)

    @worker.component
    async def child():
        await asyncio.sleep(0.1)
        done.set()

    assert await outputs(running, shard, worker, task("/parent", step=1), task("/child", step=2)) == ["child", None]


async def test_slots_are_taken_again_after_a_wait(shard, orchestrator, running, task):
    worker = Worker("cpu", concurrency=2)
    now, most = 0, 0

    @worker.component
    async def parent(context):
        nonlocal now, most
        await asyncio.sleep(0.1)
        await asyncio.gather(*[context.evaluate_flow_by_id(FLOW, n) for n in range(3)])
        now += 1
        most = max(most, now)
        await asyncio.sleep(1)
        now -= 1

    await outputs(running, shard, worker, *[task("/parent", step=n) for n in range(8)])
    assert most == 2


async def test_a_wait_outlives_an_orchestrator_that_is_away(shard, api, info, orchestrator, running, task):
    worker = Worker("cpu")

    @worker.component
    async def parent(context):
        handle = await context.submit_run(FLOW, [1])
        await api.be_away()
        asyncio.get_running_loop().call_later(300, lambda: asyncio.ensure_future(api.open()))
        return (await handle.wait()).summary.status

    assert await outputs(running, shard, worker, task("/parent")) == ["completed"]


async def test_a_wait_that_times_out_takes_its_slot_again(shard, api, info, running, task):
    worker = Worker("cpu", concurrency=1)
    now, most = 0, 0

    async def get_run(request):
        await asyncio.sleep(request.wait_ms / 1000)
        return info(request.run, "running")

    api.answers[GetRun] = get_run

    @worker.component
    async def parent(context):
        nonlocal now, most
        await asyncio.sleep(0.1)
        with pytest.raises(WaitTimeout):
            await context.get_run("r1", wait=True, timeout=2)
        now += 1
        most = max(most, now)
        await asyncio.sleep(1)
        now -= 1

    await outputs(running, shard, worker, *[task("/parent", step=n) for n in range(4)])
    assert most == 1


async def test_a_cancelled_sub_run_is_a_failure(shard, api, info, running, task):
    worker = Worker("cpu")
    api.answers[GetRun] = lambda request: info(request.run, "cancelled")

    @worker.component
    async def parent(context):
        await context.evaluate_flow_by_id(FLOW, 1)

    (failed,) = await outputs(running, shard, worker, task("/parent"))
    assert "CANCELLED" in failed.message


async def test_a_failed_sub_run_fails_the_component_unless_it_is_caught(shard, orchestrator, running, task):
    worker = Worker("cpu")
    orchestrator.evaluate = lambda value: {
        "outcome": "failed",
        "error": {"code": "INVALID_INPUT", "message": "bad", "data": {"path": "$.x"}},
    }

    @worker.component
    async def passes(context):
        return await context.evaluate_flow_by_id(FLOW, 1)

    @worker.component
    async def catches(context):
        from stepmesh import RunFailed

        try:
            await context.evaluate_flow_by_id(FLOW, 1)
        except RunFailed as problem:
            return [problem.error_code, problem.error_message, problem.data]

    failed, caught = await outputs(running, shard, worker, task("/passes", step=1), task("/catches", step=2))
    assert failed.code == ErrorCode.COMPONENT_FAILED
    assert msgspec.json.decode(failed.data)["run"]["code"] == "INVALID_INPUT"
    assert caught == ["INVALID_INPUT", "bad", {"path": "$.x"}]


async def test_a_refused_sub_run_says_why(shard, orchestrator, running, task):
    worker = Worker("cpu")
    shard.refuse = Refused("SM-5004", "no such flow", "store it first")

    @worker.component
    async def parent(context):
        return await context.evaluate_flow_by_id(FLOW, 1)

    (failed,) = await outputs(running, shard, worker, task("/parent"))
    assert "SM-5004 no such flow (store it first)" in failed.message


async def test_evaluate_flow_stores_documents_and_flows(shard, api, orchestrator, running, task):
    worker = Worker("cpu")
    flow = Flow("inner")
    flow.output({"n": Value.input("n")})

    @worker.component
    async def parent(context):
        await context.evaluate_flow(flow, {"n": 1})
        await context.evaluate_flow({"steps": [], "output": 1}, None, variables={"v": 1})

    await outputs(running, shard, worker, task("/parent"))
    assert [submit.flow for submit in shard.submits] == [flow.id, content_id(b'{"steps":[],"output":1}')]
    assert shard.submits[1].variables == b'{"v":1}'


async def test_a_cancelled_parent_stops_waiting(shard, api, running, task):
    worker = Worker("cpu")
    asked = asyncio.Event()

    async def get_run(request):
        asked.set()
        await asyncio.sleep(10_000)

    api.answers[GetRun] = get_run

    @worker.component
    async def parent(context):
        await context.evaluate_flow_by_id(FLOW, None)

    async with running(worker):
        one = task("/parent")
        await shard.send(one)
        await asked.wait()
        await shard.stop_tasks(one)
        assert await shard.no_result(5)
    assert await shard.frames_left() == 0


async def test_blobs(shard, api, running, task):
    worker = Worker("cpu")
    stored = {}

    def put(request):
        blob = BlobId(content_id(request.data))
        stored[blob] = BlobData(blob, request.kind, request.data, request.filename, request.content_type)
        return BlobStored(blob)

    api.answers[PutBlob] = put
    api.answers[GetBlob] = lambda request: stored.get(request.blob) or Refused("SM-5005", "no such blob")

    @worker.component
    async def keeps(context):
        raw = await context.put_blob(b"\x00\xff", filename="x.bin")
        data = await context.put_blob({"a": [1, 2]})
        return [data, (await context.get_blob(raw)).hex(), await context.get_blob(data)]

    @worker.component
    async def misses(context):
        await context.get_blob("0" * 64)

    kept, missed = await outputs(running, shard, worker, task("/keeps", step=1), task("/misses", step=2))
    assert kept == [content_id(b'{"a":[1,2]}'), "00ff", {"a": [1, 2]}]
    assert [blob.kind for blob in stored.values()] == ["binary", "data"]
    assert "SM-5005" in missed.message


async def test_get_run_tells_a_runs_state(shard, api, info, running, task):
    worker = Worker("cpu")
    api.answers[GetRun] = lambda request: info(request.run, "completed") if request.wait_ms else info(request.run, "running")

    @worker.component
    async def looks(context):
        now = await context.get_run("r1")
        later = await context.get_run("r1", wait=True)
        return [now.summary.status, later.summary.status]

    assert await outputs(running, shard, worker, task("/looks")) == [["running", "completed"]]


async def test_the_log_carries_run_and_step(shard, running, task, caplog):
    worker = Worker("cpu")

    @worker.component
    async def logs(context):
        context.log.warning("something %s", "odd")

    with caplog.at_level(logging.WARNING):
        await outputs(running, shard, worker, task("/logs", step=2, attempt=3))
    (record,) = [record for record in caplog.records if record.name == "stepmesh.component"]
    assert record.getMessage() == "something odd"
    assert (record.run_id, record.step_id, record.attempt, record.component) == (task("/x").run, "s2", 3, "/logs")


@pytest.mark.parametrize(("given", "kept"), [(-1, 0.0), (0.5, 0.5), (7, 1.0)])
async def test_progress_stays_within_its_range(shard, running, task, given, kept):
    worker = Worker("cpu")

    @worker.component
    async def works(context):
        context.heartbeat(given)
        await asyncio.sleep(5)

    await outputs(running, shard, worker, task("/works"))
    assert {beat.tasks[0].fraction for beat in shard.heartbeats} == {kept}


# --- the example of Stepflow's documentation, as written ------------------------------------------------------

server = Worker("cpu")


class IterateInput(pydantic.BaseModel):
    flow_id: str
    initial_input: object
    max_iterations: int = 1000


class IterateOutput(msgspec.Struct):
    result: object
    iterations: int
    terminated: bool


@server.component
async def iterate(input: IterateInput, context: StepflowContext) -> IterateOutput:
    current_input = input.initial_input
    iterations = 0
    while iterations < input.max_iterations:
        result_value = await context.evaluate_flow_by_id(input.flow_id, current_input)
        iterations += 1
        if isinstance(result_value, dict) and "result" in result_value:
            return IterateOutput(result=result_value["result"], iterations=iterations, terminated=False)
        if isinstance(result_value, dict) and "next" in result_value:
            current_input = result_value["next"]
            continue
        raise StepflowValueError("Iteration flow output must contain either 'result' or 'next' field")
    return IterateOutput(result=current_input, iterations=iterations, terminated=True)


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        (1000, {"result": "five", "iterations": 6, "terminated": False}),
        (3, {"result": 3, "iterations": 3, "terminated": True}),
    ],
)
async def test_iterate_works_as_written(shard, orchestrator, running, task, bound, expected):
    orchestrator.evaluate = lambda n: {"result": "five"} if n == 5 else {"next": n + 1}
    given = {"flow_id": FLOW, "initial_input": 0, "max_iterations": bound}
    assert await outputs(running, shard, server, task("/iterate", given)) == [expected]


async def test_iterate_over_a_body_without_result_or_next(shard, orchestrator, running, task):
    orchestrator.evaluate = lambda n: {"neither": n}
    (failed,) = await outputs(running, shard, server, task("/iterate", {"flow_id": FLOW, "initial_input": 0}))
    assert failed.code == ErrorCode.INVALID_INPUT
    assert "either 'result' or 'next'" in failed.message
