"""What goes wrong, in spans: retries and their links, failures, defaults, cancelled work, and a restart in the middle."""

from __future__ import annotations

import asyncio

from tests.integration.telemetry.conftest import World, flow, of_kind, one

from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol import tracecontext

RETRIED = {"action": "retry", "maxRetries": 2}


async def test_retries_are_attempts_linked_to_the_one_before(world: World) -> None:
    calls = 0

    @world.worker.component
    async def flaky(n: int) -> int:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise RuntimeError("not yet")
        return n

    await world.start()
    document = flow({"id": "a", "component": "/cpu/flaky", "input": 1, "onError": RETRIED}, output={"$step": "a"})
    handle = await world.client.submit(document, [None])
    spans = await world.ended(handle)
    attempts = of_kind(spans, "attempt")
    assert [span.attributes[names.ATTEMPT] for span in attempts] == [1, 2, 3]
    assert [span.attributes[names.OUTCOME] for span in attempts] == ["retrying", "retrying", "success"]
    assert [span.status for span in attempts] == ["error", "error", "unset"]
    assert [[(link.span_id, link.attributes[names.LINK]) for link in span.links] for span in attempts] == [
        [],
        [(attempts[0].span_id, "previous_attempt")],
        [(attempts[1].span_id, "previous_attempt")],
    ]
    executions = of_kind(spans, "execute")
    assert [span.parent_id for span in executions] == [span.span_id for span in attempts]
    assert [span.attributes[names.OUTCOME] for span in executions] == ["failed", "failed", "success"]
    assert executions[0].attributes[names.ERROR_TYPE] == "COMPONENT_FAILED"


async def test_a_failure_reaches_item_and_run_and_what_never_ran_has_no_span(world: World) -> None:
    @world.worker.component
    async def broken() -> int:
        raise RuntimeError("no")

    await world.start()
    document = flow(
        {"id": "a", "component": "/cpu/broken", "input": {}},
        {"id": "b", "component": "/cpu/broken", "input": {"after": {"$step": "a"}}},
        output={"$step": "b"},
    )
    spans = await world.ended(await world.client.submit(document, [None]))
    assert [span.attributes[names.STEP_ID] for span in of_kind(spans, "attempt")] == ["a"]
    for kind in ("attempt", "item", "run"):
        assert one(spans, kind).status == "error", kind
    assert one(spans, "item").attributes[names.ERROR_TYPE] == "COMPONENT_FAILED"
    assert one(spans, "run").attributes[names.RUN_STATUS] == "failed"


async def test_a_default_is_told(world: World) -> None:
    @world.worker.component
    async def broken() -> int:
        raise RuntimeError("no")

    await world.start()
    on_error = {"action": "useDefault", "defaultValue": 7}
    document = flow({"id": "a", "component": "/cpu/broken", "input": {}, "onError": on_error}, output={"$step": "a"})
    spans = await world.ended(await world.client.submit(document, [None]))
    assert one(spans, "attempt").attributes[names.OUTCOME] == "defaulted"
    assert one(spans, "run").attributes[names.RUN_STATUS] == "completed"


async def test_cancelled_work_has_its_spans(world: World) -> None:
    begun = asyncio.Event()

    @world.worker.component
    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    await world.start()
    document = flow(
        {"id": "a", "component": "/cpu/hang", "input": {}},
        {"id": "nap", "component": "/builtin/sleep", "input": {"duration_ms": 60_000}},
        output=[{"$step": "a"}, {"$step": "nap"}],
    )
    handle = await world.client.submit(document, [None])
    await begun.wait()
    await handle.cancel()
    spans = await world.ended(handle)
    assert {span.attributes[names.STEP_ID]: span.attributes[names.OUTCOME] for span in of_kind(spans, "attempt")} == {
        "a": "cancelled",
        "nap": "cancelled",
    }
    assert one(spans, "item").attributes[names.OUTCOME] == "cancelled"
    assert one(spans, "run").attributes[names.RUN_STATUS] == "cancelled"
    assert world.telemetry is not None


async def test_a_durable_sleep_is_one_span_without_a_pool(world: World) -> None:
    await world.start()
    document = flow({"id": "nap", "component": "/builtin/sleep", "input": {"duration_ms": 30}}, output={"$step": "nap"})
    spans = await world.ended(await world.client.submit(document, [None]))
    attempt = one(spans, "attempt")
    assert attempt.attributes[names.WAIT] == "sleep"
    assert names.POOL not in attempt.attributes
    assert attempt.end_ns - attempt.start_ns >= 30_000_000


async def test_a_restart_in_the_middle_keeps_the_trace_in_one_piece(world: World) -> None:
    """The second orchestrator knows only the journal; what it emits fits to what the first one and the worker emitted."""
    gate, begun, calls = asyncio.Event(), asyncio.Event(), 0

    @world.worker.component
    async def flaky() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("first attempt")
        begun.set()
        await gate.wait()
        return 1

    @world.worker.component
    async def last(n: int) -> int:
        return n

    await world.start()
    document = flow(
        {"id": "a", "component": "/cpu/flaky", "input": {}, "onError": RETRIED},
        {"id": "b", "component": "/cpu/last", "input": {"$step": "a"}},
        output={"$step": "b"},
    )
    handle = await world.client.submit(document, [None])
    await begun.wait()
    await world.stop_node()
    before = world.spans()
    assert {str(span.attributes[names.KIND]) for span in before} == {"submit", "attempt", "queue", "execute"}
    await world.start_node()
    assert [span.span_id for span in world.spans()] == [span.span_id for span in before], "a replay emits nothing"
    gate.set()
    spans = await world.ended(handle)
    run, item = one(spans, "run"), one(spans, "item")
    assert run.span_id == f"{tracecontext.run_span(handle.id):016x}"
    assert run.parent_id == one(spans, "submit").span_id
    assert item.parent_id == run.span_id
    second = one(spans, "attempt", step_id="a", attempt=2)
    assert second.parent_id == item.span_id
    assert [link.span_id for link in second.links] == [one(spans, "attempt", step_id="a", attempt=1).span_id]
    assert second.attributes[names.POOL] == "cpu"
    assert {span.parent_id for span in of_kind(spans, "execute")} == {span.span_id for span in of_kind(spans, "attempt")}
    assert len({span.trace_id for span in spans}) == 1
    assert len({span.span_id for span in spans}) == len(spans)
    assert run.start_ns <= second.start_ns <= second.end_ns <= run.end_ns
