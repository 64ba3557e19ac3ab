"""What lies in a real broker's log beside good frames, and what of it is no journal of ours."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from tests.services.nats import NatsServers

from stepmesh_broker.kafka import KafkaSettings
from stepmesh_broker.kafka.topic_log import TopicLogs
from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.journal.jetstream import JetStreamJournal
from stepmesh_orchestrator.journal.kafka import KafkaJournal
from stepmesh_orchestrator.journal.log_records import Kind, decode
from stepmesh_orchestrator.ports import Journal, JournalError, Snapshot, StaleOwner

P = Partition(1)


@pytest.fixture
def namespace() -> Namespace:
    return Namespace(f"t{uuid.uuid4().hex[:12]}")


async def payloads(journal: Journal) -> list[bytes]:
    return [frame.payload async for frame in journal.read(P)]


async def test_kafka_takes_a_stale_owners_frame_and_nobody_reads_it(kafka_url: str, namespace: Namespace) -> None:
    first, second = KafkaJournal(kafka_url, namespace, 2), KafkaJournal(kafka_url, namespace, 2)
    logs = TopicLogs(KafkaSettings.parse(kafka_url))
    await logs.open()
    await first.open()
    await second.open()
    try:
        old = await first.acquire(P, "first")
        await first.append(P, old.epoch, 1, b"one")
        new = await second.acquire(P, "second")
        topic = f"stepmesh.{namespace}.journal"
        await logs.ensure(topic, 2, {})
        before = await logs.end(topic, P)
        with pytest.raises(StaleOwner, match="epoch 2"):
            await first.append(P, old.epoch, 2, b"stale")
        assert await logs.end(topic, P) == before + 1
        await second.append(P, new.epoch, 2, b"two")
        assert await payloads(first) == [b"one", b"two"]
        assert [frame.payload async for frame in second.read(P, 1)] == [b"two"]
        assert (await first.acquire(P, "third")).next_sequence == 3
    finally:
        await first.close()
        await second.close()
        await logs.close()


@pytest.mark.parametrize("kind", ["jetstream", "kafka"])
async def test_an_owner_whose_successor_is_trimmed_away_is_refused(kind: str, request: pytest.FixtureRequest, namespace: Namespace) -> None:
    """It stood still for long: of what another one did since, only the newest frame is left, and no owner record."""

    def made() -> Journal:
        if kind == "kafka":
            return KafkaJournal(request.getfixturevalue("kafka_url"), namespace, 2)
        return JetStreamJournal(request.getfixturevalue("nats_url"), namespace)

    first, second = made(), made()
    await first.open()
    await second.open()
    try:
        old = await first.acquire(P, "first")
        await first.append(P, old.epoch, 1, b"one")
        new = await second.acquire(P, "second")
        for sequence in (2, 3, 4):
            await second.append(P, new.epoch, sequence, b"by the second")
        await second.save_snapshot(P, new.epoch, Snapshot(3, b"state"))
        await second.trim(P, 3)
        with pytest.raises(StaleOwner):
            await first.append(P, old.epoch, 2, b"stale")
        assert (await first.acquire(P, "third")).next_sequence == 5
    finally:
        await first.close()
        await second.close()


async def test_kafkas_offsets_have_no_gaps(kafka_url: str, namespace: Namespace) -> None:
    """On which it rests that an owner sees from an offset whether another one was there."""
    logs = TopicLogs(KafkaSettings.parse(kafka_url))
    await logs.open()
    try:
        await logs.ensure(f"stepmesh.{namespace}.gaps", 1, {})
        offsets = [await logs.append(f"stepmesh.{namespace}.gaps", 0, bytes(size)) for size in (0, 1, 900_000, 1, 1)]
        assert offsets == [0, 1, 2, 3, 4]
    finally:
        await logs.close()


@pytest.fixture
def small_nats_url(tmp_path: Path) -> Iterator[str]:
    """A server that takes messages up to its usual limit only."""
    with NatsServers(tmp_path, 1, ("max_payload: 1MB",)) as servers:
        yield servers.url


async def test_a_frame_whose_last_part_never_came_is_cut_off(
    small_nats_url: str, namespace: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    journal = JetStreamJournal(small_nats_url, namespace)
    await journal.open()
    client = await nats.connect(small_nats_url)
    try:
        epoch = (await journal.acquire(P, "first")).epoch
        await journal.append(P, epoch, 1, b"one")
        await journal.append(P, epoch, 2, bytes(3_000_000))
        stream, subject = f"stepmesh_{namespace}_journal", f"stepmesh.{namespace}.journal.{P}"
        newest = await client.jetstream().get_last_msg(stream, subject)
        record = decode(newest.seq or 0, newest.data or b"").record
        assert record is not None
        assert (record.kind, record.part, record.parts) == (Kind.FRAME, 3, 3)
        await client.jetstream().delete_msg(stream, newest.seq or 0)
        successor = await journal.acquire(P, "second")
        assert successor.next_sequence == 2
        assert "frame 2 was not written to its end" in caplog.text
        await journal.append(P, successor.epoch, 2, b"two")
        assert await payloads(journal) == [b"one", b"two"]
    finally:
        await client.close()
        await journal.close()


async def test_a_stream_that_is_no_journal_is_refused(nats_url: str, namespace: Namespace) -> None:
    client = await nats.connect(nats_url)
    try:
        await client.jetstream().add_stream(name=f"stepmesh_{namespace}_journal", subjects=[f"stepmesh.{namespace}.journal.*"])
        with pytest.raises(JournalError) as raised:
            await JetStreamJournal(nats_url, namespace).open()
        assert raised.value.code == "SM-4006"
        assert "is no journal" in raised.value.message
    finally:
        await client.close()


async def test_a_kafka_journal_of_another_format_is_refused(kafka_url: str, namespace: Namespace) -> None:
    logs = TopicLogs(KafkaSettings.parse(kafka_url))
    await logs.open()
    try:
        await logs.ensure(f"stepmesh.{namespace}.journal-id", 1, {})
        await logs.append(f"stepmesh.{namespace}.journal-id", 0, b'{"journal":"x","format":2}')
        with pytest.raises(JournalError, match="format 2") as raised:
            await KafkaJournal(kafka_url, namespace, 1).open()
        assert raised.value.code == "SM-4006"
    finally:
        await logs.close()


@pytest.mark.parametrize(("partitions", "code"), [(2, None), (3, "SM-4022")])
async def test_topics_with_too_few_partitions_are_refused(kafka_url: str, namespace: Namespace, partitions: int, code: str | None) -> None:
    first = KafkaJournal(kafka_url, namespace, 2)
    await first.open()
    await first.close()
    again = KafkaJournal(kafka_url, namespace, partitions)
    if code is None:
        await again.open()
        await again.close()
        return
    with pytest.raises(JournalError, match="has 2 partitions") as raised:
        await again.open()
    assert raised.value.code == code


@pytest.mark.parametrize("kind", ["jetstream", "kafka"])
async def test_a_server_that_does_not_answer_is_said(kind: str, namespace: Namespace) -> None:
    journal = (
        JetStreamJournal("nats://user:secret@127.0.0.1:9", namespace)
        if kind == "jetstream"
        else KafkaJournal("kafka://user:secret@127.0.0.1:9", namespace, 1)
    )
    with pytest.raises(JournalError) as raised:
        await journal.open()
    assert raised.value.code == "SM-4005"
    assert "127.0.0.1:9" in str(raised.value)
    assert "secret" not in str(raised.value)
