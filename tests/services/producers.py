"""Producers of other programs: they know an address, the name of a topic, and nothing of Stepmesh."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import nats
from aiokafka import AIOKafkaProducer

Record = tuple[bytes, str, Mapping[str, str]]


async def kafka_records(url: str, namespace: str, records: Iterable[Record], topic: str = "submit") -> None:
    """With acks from all replicas."""
    producer = AIOKafkaProducer(bootstrap_servers=url.removeprefix("kafka://").partition("?")[0], acks="all", max_request_size=16 << 20)
    await producer.start()
    try:
        for value, key, headers in records:
            named = [(name, text.encode()) for name, text in headers.items()]
            await producer.send_and_wait(f"stepmesh.{namespace}.{topic}", value, key=key.encode() or None, headers=named)
    finally:
        await producer.stop()


async def nats_records(url: str, namespace: str, records: Iterable[Record], topic: str = "submit") -> None:
    """With JetStream's acknowledgement."""
    client = await nats.connect(["nats://" + one for one in url.removeprefix("nats://").partition("?")[0].split(",")])
    try:
        stream = client.jetstream()
        for value, key, headers in records:
            named = {**headers, "Stepmesh-Key": key} if key else dict(headers)
            await stream.publish(f"stepmesh.{namespace}.{topic}", value, headers=named or None)
    finally:
        await client.close()
