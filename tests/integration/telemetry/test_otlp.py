"""The wiring to a real receiver: an HTTP server on the loopback that decodes what the OTLP exporters send."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE
from tests.integration.telemetry.conftest import World, flow
from tests.integration.telemetry.receiver import Receiver, receiving

from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.telemetry import Configured, read
from stepmesh_orchestrator.runtime.readings import read_shard


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Runs while the test does."""
    with receiving() as found:
        yield found


async def through(world: World, receiver: Receiver, *, items: int = 3) -> str:
    """A run of `items` items, two of whose tries fail, over telemetry to the receiver. Its id."""
    calls = 0

    @world.worker.component
    async def flaky(n: int) -> int:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise RuntimeError("not yet")
        return n

    settings = read({}, Configured(endpoint=receiver.url, headers={"x-team": "blue"}))
    world.settings = dict.fromkeys(world.settings, settings)
    await world.start()
    step = {"id": "a", "component": "/cpu/flaky", "input": {"$input": "$"}, "onError": {"action": "retry", "maxRetries": 3}}
    handle = await world.client.submit(flow(step, output={"$step": "a"}), list(range(items)))
    await handle.wait(30)
    service = next(iter(world.node.partitions.values()))
    assert world.telemetry is not None
    world.telemetry.read([read_shard(service.shard, service.sweeper, world.node.ports.clock)])
    world.spans()
    return handle.id


async def test_spans_of_all_parts_arrive(receiver: Receiver, world: World) -> None:
    await through(world, receiver)
    spans = receiver.spans()
    assert {service for service, _ in spans} == {"stepmesh-client", "stepmesh-orchestrator", "stepmesh-worker"}
    assert len({span.trace_id for _, span in spans}) == 1
    ids = {span.span_id for _, span in spans}
    assert {span.parent_span_id for _, span in spans} - ids == {b""}
    assert sum(len(span.links) for _, span in spans) == 2
    assert all(headers["x-team"] == "blue" for headers in receiver.headers)


async def test_metrics_arrive_with_their_units_and_values(receiver: Receiver, world: World) -> None:
    await through(world, receiver)
    found = receiver.latest()
    ours = {metric.name for metric in names.METRICS} - {metric.name for metric in names.OF_PROJECTORS}
    assert ours - set(found) == {names.TASK_FAILURES.name, names.TASK_PARKED.name}
    assert all(found[metric.name].unit == metric.unit for metric in names.METRICS if metric.name in found)
    (duration,) = found[names.TASK_DURATION.name].histogram.data_points
    assert (duration.count, sum(duration.bucket_counts)) == (5, 5)
    assert {one.key: one.value.string_value for one in duration.attributes} == {names.POOL: "cpu", names.COMPONENT: "/flaky"}
    assert found[names.TASK_DURATION.name].histogram.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    (wait,) = found[names.QUEUE_WAIT.name].histogram.data_points
    assert wait.count == 5
    (retries,) = found[names.TASK_RETRIES.name].sum.data_points
    assert retries.as_int == 2
    assert {one.key: one.value.string_value for one in retries.attributes} == {
        names.POOL: "cpu", names.RETRY_KIND: "component", names.ERROR_TYPE: "COMPONENT_FAILED",
    }  # fmt: skip
    (ended,) = found[names.RUNS_ENDED.name].sum.data_points
    assert ended.as_int == 1
    (published,) = found[names.TASKS_PUBLISHED.name].sum.data_points
    assert published.as_int == 5
    (live,) = found[names.RUNS_LIVE.name].gauge.data_points
    assert live.as_int == 0
    (turns,) = found[names.TURN_EVENTS.name].histogram.data_points
    (appends,) = found[names.JOURNAL_APPEND.name].histogram.data_points
    assert turns.count == appends.count > 0
    assert turns.sum == world.node.partitions[0].shard.counters.events  # type: ignore[index]  # partition 0


async def test_a_receiver_that_is_away_costs_the_spans_and_nothing_else(
    world: World, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    away = Receiver(f"http://127.0.0.1:{unused_tcp_port}")

    @world.worker.component
    async def one() -> int:
        return 1

    world.settings = dict.fromkeys(world.settings, read({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{away.url}/v1/traces"}))
    await world.start()
    document = flow({"id": "a", "component": "/cpu/one", "input": {}}, output={"$step": "a"})
    assert await world.client.run(document, None, timeout=30) == 1
