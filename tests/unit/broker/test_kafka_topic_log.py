"""Topics as logs, over clients that are scripted: what a cluster answers that is in trouble."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import TopicAlreadyExistsError

from stepmesh_broker.kafka import topic_log
from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.topic_log import NoAnswer, TopicLogs


class WithoutLeader:
    """A topic is there, and the only broker that has it is away."""

    async def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]:
        return [{"error_code": 0, "topic": topics[0], "partitions": [{"leader": -1, "replicas": [1]}]}]

    async def create_topics(self, topics: list[Any]) -> Any:
        return SimpleNamespace(topic_errors=[(topics[0].name, TopicAlreadyExistsError.errno, "")])


async def test_a_topic_that_has_no_leader_is_not_waited_for_for_ever() -> None:
    logs = TopicLogs(KafkaSettings(), patience_s=0.1)
    logs._admin = WithoutLeader()
    async with asyncio.timeout(10):
        with pytest.raises(NoAnswer, match="no leader"):
            await logs.ensure("topic", 1, {})


async def test_a_producer_that_does_not_stop_sends_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka would go on in the background, with what nobody waits for any more."""
    monkeypatch.setattr(topic_log, "STOP_S", 0.01)
    ended: list[str] = []

    async def stop() -> None:
        await asyncio.Event().wait()

    async def sender() -> None:
        ended.append("sender")
        await asyncio.Event().wait()

    async def client() -> None:
        ended.append("client")

    producer = SimpleNamespace(stop=stop, _sender=SimpleNamespace(close=sender), client=SimpleNamespace(close=client))
    async with asyncio.timeout(10):
        await topic_log._stop(producer)
    assert ended == ["sender", "client"]
