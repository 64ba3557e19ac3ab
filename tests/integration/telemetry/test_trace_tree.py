"""One run through client, orchestrator and worker: its spans are one tree with the right parents, whoever takes part in telemetry."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tests.integration.telemetry.conftest import World, flow, of_kind, one

from stepmesh import Context
from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol import tracecontext
from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.telemetry import TelemetrySettings
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.runtime import waits

ADD = flow(
    {"id": "first", "component": "/cpu/add", "input": {"$input": "n"}},
    {"id": "second", "component": "/cpu/add", "input": {"$step": "first"}},
    output={"$step": "second"},
)


def adding(world: World) -> None:
    @world.worker.component
    async def add(n: int) -> int:
        return n + 1


async def test_one_tree_from_submission_to_execution(world: World) -> None:
    adding(world)
    await world.start()
    spans = await world.ended(await world.client.submit(ADD, [{"n": 1}]))
    submit, run, item = one(spans, "submit"), one(spans, "run"), one(spans, "item")
    assert submit.parent_id == ""
    assert (run.parent_id, item.parent_id) == (submit.span_id, run.span_id)
    for step in ("first", "second"):
        attempt = one(spans, "attempt", step_id=step)
        assert attempt.parent_id == item.span_id
        assert one(spans, "queue", step_id=step).parent_id == attempt.span_id
        assert one(spans, "execute", step_id=step).parent_id == attempt.span_id
    assert len({span.trace_id for span in spans}) == 1
    assert len(spans) == 9
    assert {span.service for span in spans} == {"stepmesh-client", "stepmesh-orchestrator", "stepmesh-worker"}


async def test_times_nest(world: World) -> None:
    adding(world)
    await world.start()
    spans = await world.ended(await world.client.submit(ADD, [{"n": 1}]))
    run, item = one(spans, "run"), one(spans, "item")
    assert run.start_ns <= item.start_ns <= item.end_ns <= run.end_ns
    for step in ("first", "second"):
        attempt, queue = one(spans, "attempt", step_id=step), one(spans, "queue", step_id=step)
        assert item.start_ns <= attempt.start_ns == queue.start_ns <= queue.end_ns <= attempt.end_ns <= item.end_ns


async def test_attributes_say_what_it_was(world: World) -> None:
    adding(world)
    await world.start()
    handle = await world.client.submit(ADD, [{"n": 1}, {"n": 2}])
    spans = await world.ended(handle)
    run = one(spans, "run")
    assert run.name == "run traced"
    assert run.attributes[names.RUN_ID] == handle.id
    assert run.attributes[names.RUN_ITEMS] == 2
    assert run.attributes[names.RUN_STATUS] == "completed"
    attempt = one(spans, "attempt", item=1, step_id="second")
    assert attempt.name == "step second"
    assert attempt.attributes[names.POOL] == "cpu"
    assert attempt.attributes[names.ATTEMPT] == 1
    assert attempt.attributes[names.OUTCOME] == "success"
    execute = one(spans, "execute", item=1, step_id="second")
    assert (execute.kind, execute.attributes[names.DESTINATION]) == ("consumer", "cpu")
    assert all(set(span.attributes) <= set(names.ATTRIBUTES) for span in spans)


async def test_payloads_are_in_no_span(world: World) -> None:
    @world.worker.component
    async def secret(value: str) -> str:
        return value + "-out"

    await world.start()
    document = flow({"id": "a", "component": "/cpu/secret", "input": {"$input": "$"}}, output={"$step": "a"})
    await world.ended(await world.client.submit(document, ["hunter2"], variables={}))
    assert b"hunter2" not in world.path.read_bytes()


async def test_a_submission_inside_the_callers_trace_joins_it(world: World) -> None:
    adding(world)
    await world.start()
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("caller")
    with tracer.start_as_current_span("request") as outer:
        handle = await world.client.submit(ADD, [{"n": 1}])
    spans = await world.ended(handle)
    above = outer.get_span_context()
    assert {span.trace_id for span in spans} == {f"{above.trace_id:032x}"}
    assert one(spans, "submit").parent_id == f"{above.span_id:016x}"


async def test_the_callers_decision_not_to_sample_stands(world: World) -> None:
    adding(world)
    await world.start()
    context = tracecontext.TraceContext(1, 2, sampled=False)
    span = trace.NonRecordingSpan(trace.SpanContext(context.trace_id, context.span_id, is_remote=False))
    with trace.use_span(span):
        handle = await world.client.submit(ADD, [{"n": 1}])
    assert await world.ended(handle) == []


async def test_users_spans_nest_in_the_execution(world: World) -> None:
    @world.worker.component
    async def add(n: int) -> int:
        instrument = world.worker.instrument
        with instrument.provider.get_tracer("user").start_as_current_span("look up"):  # type: ignore[union-attr]
            await asyncio.sleep(0)
        return n + 1

    @world.worker.component
    def add_sync(n: int) -> int:
        instrument = world.worker.instrument
        with instrument.provider.get_tracer("user").start_as_current_span("look up in a thread"):  # type: ignore[union-attr]
            return n + 1

    await world.start()
    document = flow(
        {"id": "a", "component": "/cpu/add", "input": 1},
        {"id": "b", "component": "/cpu/add_sync", "input": {"$step": "a"}},
        output={"$step": "b"},
    )
    spans = await world.ended(await world.client.submit(document, [None]))
    for name, step in (("look up", "a"), ("look up in a thread", "b")):
        (user,) = [span for span in spans if span.name == name]
        assert user.parent_id == one(spans, "execute", step_id=step).span_id
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_without_a_clients_telemetry_the_run_is_the_top_and_its_trace_follows_from_its_id(world: World) -> None:
    adding(world)
    world.settings["client"] = None
    await world.start()
    handle = await world.client.submit(ADD, [{"n": 1}])
    spans = await world.ended(handle)
    assert one(spans, "run").parent_id == ""
    assert {span.trace_id for span in spans} == {f"{tracecontext.trace_of(handle.id, 1.0).trace_id:032x}"}
    assert len(spans) == 8


async def test_a_worker_alone_derives_the_same_parents(world: World) -> None:
    adding(world)
    world.settings |= {"client": None, "orchestrator": None}
    await world.start()
    handle = await world.client.submit(ADD, [{"n": 1}])
    spans = await world.ended(handle)
    assert [span.parent_id for span in spans] == [f"{tracecontext.attempt_span(handle.id, 0, step, 1):016x}" for step in (0, 1)]
    assert {span.trace_id for span in spans} == {f"{tracecontext.trace_of(handle.id, 1.0).trace_id:032x}"}


async def test_a_failed_submission_is_a_failed_span(world: World) -> None:
    adding(world)
    await world.start()
    document = {
        **ADD,
        "schemas": {"properties": {"input": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}}},
    }
    with pytest.raises(Exception, match="does not match"):
        await world.client.submit(document, [{}])
    span = one(world.spans(), "submit")
    assert (span.status, span.attributes[names.ERROR_TYPE]) == ("error", "RequestRefused")


async def test_a_submission_that_finds_its_run_links_to_it(world: World) -> None:
    adding(world)
    await world.start()
    first = await world.client.submit(ADD, [{"n": 1}], run_key="daily")
    second = await world.client.submit(ADD, [{"n": 1}], run_key="daily")
    spans = await world.ended(second)
    again = one(spans, "submit", run_existing=True)
    assert second.id == first.id
    assert again.attributes[names.RUN_ID] == first.id
    assert [link.span_id for link in again.links] == [f"{tracecontext.run_span(first.id):016x}"]
    assert len(of_kind(spans, "run")) == 1


@pytest.mark.parametrize("ratio", [0.0, 0.5])
async def test_sampling_keeps_or_drops_whole_traces(world: World, ratio: float) -> None:
    adding(world)
    world.settings = {part: replace(settings or TelemetrySettings(), sampling=ratio) for part, settings in world.settings.items()}
    await world.start()
    handles = [await world.client.submit(ADD, [{"n": 1}]) for _ in range(12)]
    for handle in handles:
        await handle.wait(30)
    kept = {handle.id for handle in handles if tracecontext.trace_of(handle.id, ratio).sampled}
    spans = world.spans()
    assert {span.attributes[names.RUN_ID] for span in spans} == kept
    assert len(spans) == 9 * len(kept)


async def test_a_component_that_submits_a_run_is_its_parent(world: World) -> None:
    adding(world)

    @world.worker.component
    async def nest(context: Context) -> int:
        result: int = await context.evaluate_flow(ADD, {"n": 5})
        return result

    await world.start()
    outer = await world.client.submit(flow({"id": "up", "component": "/cpu/nest", "input": {}}, output={"$step": "up"}), [None])
    spans = await world.ended(outer)
    child = next(span for span in of_kind(spans, "run") if span.attributes[names.RUN_ID] != outer.id)
    assert child.parent_id == one(spans, "execute", step_id="up").span_id
    assert [(link.span_id, link.attributes[names.LINK]) for link in child.links] == [
        (f"{tracecontext.run_span(outer.id):016x}", "parent_run")
    ]
    assert len({span.trace_id for span in spans}) == 1


async def test_without_the_workers_telemetry_a_child_hangs_on_the_attempt(world: World) -> None:
    adding(world)
    world.settings["worker"] = None

    @world.worker.component
    async def nest(context: Context) -> int:
        result: int = await context.evaluate_flow(ADD, {"n": 5})
        return result

    await world.start()
    outer = await world.client.submit(flow({"id": "up", "component": "/cpu/nest", "input": {}}, output={"$step": "up"}), [None])
    spans = await world.ended(outer)
    child = next(span for span in of_kind(spans, "run") if span.attributes[names.RUN_ID] != outer.id)
    assert child.parent_id == f"{tracecontext.attempt_span(outer.id, 0, 0, 1):016x}"


async def test_sub_runs_of_the_core_hang_on_their_step(world: World) -> None:
    adding(world)
    await world.start()
    document = flow(
        {"id": "each", "component": "/builtin/map", "input": {"items": [{"n": 1}, {"n": 2}], "workflow": {"$literal": ADD}}},
        output={"$step": "each"},
    )
    outer = await world.client.submit(document, [None])
    spans = await world.ended(outer)
    attempt = one(spans, "attempt", step_id="each")
    assert attempt.attributes[names.WAIT] == "sub_run"
    child = next(span for span in of_kind(spans, "run") if span.attributes[names.RUN_ID] != outer.id)
    assert child.parent_id == attempt.span_id
    assert child.attributes[names.PARENT_RUN_ID] == outer.id
    assert attempt.start_ns <= child.start_ns <= child.end_ns <= attempt.end_ns
    assert len({span.trace_id for span in spans}) == 1


@pytest.mark.parametrize("late_s", [-1, 60])
async def test_a_run_that_was_dormant_is_traced_as_if_it_had_stayed(world: World, monkeypatch: pytest.MonkeyPatch, late_s: int) -> None:
    """Its orchestrator is away meanwhile: until just before the sleep is over, or for longer than that."""
    monkeypatch.setattr(waits, "DROWSY_MS", 10)
    await world.start()
    nap = flow({"id": "nap", "component": "/builtin/sleep", "input": {"duration": "1h"}}, output={"$step": "nap"})
    handle = await world.client.submit(nap, [None])
    while handle.id not in world.node.partitions[Partition(0)].shard.session.state.dormant:
        await asyncio.sleep(0.01)
    await world.stop_node()
    world.clock = SystemClock(lambda: time.time_ns() + (3_600 + late_s) * 1_000_000_000)
    await world.start_node()
    spans = await world.ended(handle)
    run, item, attempt = one(spans, "run"), one(spans, "item"), one(spans, "attempt", step_id="nap")
    assert (item.parent_id, attempt.parent_id) == (run.span_id, item.span_id)
    assert attempt.attributes[names.WAIT] == "sleep"
    assert attempt.end_ns - attempt.start_ns >= 3_600_000_000_000
