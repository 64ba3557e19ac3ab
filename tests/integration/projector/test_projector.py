"""`stepmesh projector` over a real Kafka and a real PostgreSQL: whatever happens to it, the read model is that of the journal's owner."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from tests.integration.projector.following import Follower, Where
from tests.integration.projector.topics import create, fill, records_of
from tests.integration.telemetry.receiver import receiving
from tests.services.process import free_port
from tests.unit.projector.counting import Model
from tests.unit.projector.recorded import PARTITION, recorded

from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_orchestrator.core.rows import RunGone
from stepmesh_orchestrator.journal.kafka import KafkaJournal
from stepmesh_orchestrator.store.postgres import PostgresStore
from stepmesh_projector.postgres import PostgresKeeper

PARTITIONS = 2
FOLLOWS = "partition 0 is followed from frame"


@asynccontextmanager
async def prepared(kafka_url: str, postgres_url: str, folder: Path) -> AsyncGenerator[Where]:
    """A store with flows."""
    namespace = Namespace(f"projector-{uuid.uuid4().hex[:8]}")
    store, keeper = PostgresStore(postgres_url, namespace), PostgresKeeper(postgres_url, namespace)
    await store.open()
    await keeper.open()
    for flow in recorded().store._flows.values():
        await store.put_flow(flow)
    yield Where(kafka_url, postgres_url, namespace, folder, store, keeper)
    await keeper.close()
    await store.close()


@pytest.fixture
async def where(kafka_url: str, postgres_url: str, tmp_path: Path) -> AsyncGenerator[Where]:
    """An empty topic, and a store with flows."""
    async with prepared(kafka_url, postgres_url, tmp_path) as found:
        await create(kafka_url, found.topic, PARTITIONS)
        yield found


async def put(where: Where, first: int = 0, last: int | None = None) -> int:
    """Records of the recorded journal into the topic; returns how many frames there are."""
    frames = recorded().frames
    await fill(where.kafka, where.topic, PARTITION, list(records_of(frames, PARTITION))[first:last])
    return len(frames)


async def test_the_read_model_and_the_windows_are_those_of_the_journal(where: Where) -> None:
    frames = await put(where)
    with Follower(where) as follower:
        await follower.until(lambda: where.settled(frames))
        assert follower.stop() == 0, follower.said
    await where.is_as_recorded()
    tasks = (await Model.of(recorded().frames, recorded().store, 1)).latencies["cpu"]
    command = [sys.executable, "-m", "stepmesh_cli", "stats", "--store", where.postgres, "--namespace", where.namespace]
    shown = await asyncio.to_thread(subprocess.run, [*command, "--last", "999999h", "--json"], capture_output=True, check=True)
    (pool,) = [json.loads(line) for line in shown.stdout.splitlines()]
    counts = pool["counts"]
    assert (pool["name"], counts["succeeded"] + counts["failed"] + counts["retried"]) == ("cpu", len(tasks))
    assert pool["latency_ms"][-1] == pytest.approx(max(tasks), rel=0.05)
    assert (pool["tokens"], pool["cost"]) == ({"prompt": 14, "completion": 10, "total": 26}, {"USD": 0.2})
    table = await asyncio.to_thread(subprocess.run, [*command, "--last", "999999h", "--by", "namespace"], capture_output=True, check=True)
    assert table.stdout.split()[-3:] == [b"26", b"0.2", b"USD"]


async def test_it_goes_on_where_it_stopped_and_where_it_was_killed(where: Where) -> None:
    records = len(list(records_of(recorded().frames, PARTITION)))
    cuts = [0, records // 4, records // 2, 3 * records // 4, records]
    for number, (first, last) in enumerate(pairwise(cuts)):
        await put(where, first, last)
        before = await where.store.projected(PARTITION)
        with Follower(where) as follower:

            async def moved(before: int = before) -> bool:
                return await where.store.projected(PARTITION) > before

            await follower.until(moved)
            if number % 2:
                assert follower.stop() == 0, follower.said
            else:
                follower.kill()
    with Follower(where) as follower:
        await follower.until(lambda: where.settled(len(recorded().frames)))
    await where.is_as_recorded()


async def test_a_rebuild_from_the_beginning_gives_the_same(where: Where) -> None:
    frames = await put(where)
    with Follower(where) as follower:
        await follower.until(lambda: where.settled(frames))
        with Follower(where, "--rebuild") as refused:
            assert refused.ended() == 1
            assert "SM-4216" in refused.said
        assert follower.stop() == 0, follower.said
    lost = (await where.read_model())[0][0]
    await where.store.project(PARTITION, frames, [], [], [RunGone(lost.root)])
    with Follower(where, "--rebuild") as follower:

        async def rebuilt() -> bool:
            return await where.keeper.generation() == 1 and await where.settled(frames)

        await follower.until(rebuilt)
        assert follower.stop() == 0, follower.said
    await where.is_as_recorded()


async def test_another_process_takes_over_from_one_that_was_killed(where: Where) -> None:
    records = len(list(records_of(recorded().frames, PARTITION)))
    await put(where, 0, records // 2)
    with Follower(where) as first, Follower(where) as second:

        async def moved() -> bool:
            return await where.store.projected(PARTITION) > 0

        await first.until(moved)
        owner, other = (first, second) if FOLLOWS in first.said else (second, first)
        await put(where, records // 2, 3 * records // 4)
        owner.kill()
        await put(where, 3 * records // 4)
        await other.until(lambda: where.settled(len(recorded().frames)))
        assert other.stop() == 0, other.said
    await where.is_as_recorded()


async def test_a_topic_that_is_not_there_is_told(where: Where) -> None:
    other = where._replace(namespace=Namespace(f"{where.namespace}-no"))
    with Follower(other) as follower:
        assert follower.ended() == 1
        assert f"SM-4214 there is no topic {other.topic}" in follower.said


async def test_frames_that_are_gone_from_the_topic_are_told(where: Where) -> None:
    await put(where, first=10)
    with Follower(where) as follower:
        assert follower.ended() == 1
        assert "SM-4210" in follower.said
        assert "where frame 1 should follow" in follower.said


async def test_a_record_that_is_none_is_told(where: Where) -> None:
    await put(where, last=5)
    from aiokafka import AIOKafkaProducer

    async with AIOKafkaProducer(bootstrap_servers=where.kafka.removeprefix("kafka://")) as producer:
        await producer.send(where.topic, b"something else", partition=PARTITION)
    with Follower(where) as follower:
        assert follower.ended() == 1
        assert "SM-4211 the record at offset 5 of partition 0" in follower.said


async def test_its_metrics_say_how_far_it_is(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = await put(where)
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
        with Follower(where) as follower:

            async def told() -> bool:
                found = receiver.latest().get(names.PROJECTOR_FRAMES.name)
                return found is not None and sum(point.as_int for point in found.sum.data_points) == frames

            await follower.until(told)
            assert follower.stop() == 0, follower.said
    found = receiver.latest()
    assert [point.as_int for point in found[names.PROJECTOR_LAG.name].gauge.data_points] == [0] * PARTITIONS
    stored = await where.read_model()
    assert sum(point.as_int for point in found[names.PROJECTOR_ROWS.name].sum.data_points) >= sum(1 + len(items) for _, items in stored) > 0


async def test_it_follows_what_orchestrators_append(kafka_url: str, postgres_url: str, tmp_path: Path) -> None:
    """The journal's own backend wrote the topic: two owners, and frames of several records are its business."""
    async with prepared(kafka_url, postgres_url, tmp_path) as where:
        frames = recorded().frames
        journal = KafkaJournal(where.kafka, where.namespace, PARTITIONS)
        await journal.open()
        try:
            for owner, some in (("first", frames[:20]), ("second", frames[20:])):
                ownership = await journal.acquire(PARTITION, owner)
                for frame in some:
                    await journal.append(PARTITION, ownership.epoch, frame.sequence, frame.payload)
        finally:
            await journal.close()
        port = free_port()
        with Follower(where, "--port", str(port)) as follower:
            await follower.until(lambda: where.settled(len(frames)))
            async with httpx.AsyncClient() as client:
                health = (await client.get(f"http://127.0.0.1:{port}/health")).json()
        assert health["partitions"]["0"] == {"frame": len(frames), "stored": len(frames)}
        await where.is_as_recorded()
