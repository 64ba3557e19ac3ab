"""The topics of a namespace as code: what is wanted of each, what is there, and making one the other.

Invariant: nothing is taken away. A topic never gets fewer partitions, and settings that an operator gave it beside the wanted ones stay.
It must not know what is written to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepmesh_broker.kafka.topics import TopicFacts, Topics
from stepmesh_broker.protocol.ids import Pool

Pools = Mapping[Pool, int | None]
"""Pool → partitions of its topic, None for what the settings say."""


async def definitions(topics: Topics, replicas: int | None, pools: Pools) -> list[dict[str, Any]]:
    """What is wanted, and under `found` what is there, or None. `replicas` None: what the cluster does by itself. Raises `BrokerError`."""
    told: list[dict[str, Any]] = []
    for topic in _names(topics, pools):
        partitions, settings = topics.plan(topic)
        wanted = {"name": topic, "partitions": partitions, "replicas": replicas, "settings": settings}
        told.append({**wanted, "found": _described(topic, await topics.facts(topic), settings)})
    return told


async def define(topics: Topics, pools: Pools) -> None:
    """Make what is missing; let grow what has fewer partitions, give the rest the wanted settings. Raises `BrokerError`."""
    for topic in _names(topics, pools):
        partitions, settings = topics.plan(topic)
        await topics.ensure(topic, partitions=partitions, again=True)
        found = await topics.facts(topic)
        if found is not None and settings.items() - found.settings.items():
            await topics.configure(topic, {**found.settings, **settings})


def _names(topics: Topics, pools: Pools) -> list[str]:
    for pool, partitions in pools.items():
        if partitions is not None:
            topics.size(pool, partitions)
    return [topics.births, topics.inbox, *topics.plain.values(), topics.dead, topics.talk, *(topics.tasks(pool) for pool in pools)]


def _described(topic: str, found: TopicFacts | None, wanted: Mapping[str, str]) -> dict[str, Any] | None:
    if found is None:
        return None
    settings = {name: found.settings.get(name) for name in wanted}
    return {"name": topic, "partitions": found.partitions, "replicas": found.replicas, "settings": settings}
