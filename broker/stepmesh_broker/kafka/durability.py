"""Asks a Kafka cluster what it would lose: replication factors, `min.insync.replicas`, elections, sizes. Only asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from stepmesh_broker.durability import NOT_VISIBLE, Finding
from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.kafka.settings import KafkaSettings

OFFSETS_TOPIC = "__consumer_offsets"
_ALONE = "a topic with one replica dies with its broker's disk, and is away while its broker is"


async def examine(settings: KafkaSettings) -> list[Finding]:
    """Raises `BrokerError`."""
    admin = AIOKafkaAdminClient(**settings.client_options)
    try:
        await admin.start()
        brokers = (await admin.describe_cluster())["brokers"]
        topics = await admin.describe_topics()
        broker = await _configuration(admin, ConfigResourceType.BROKER, str(brokers[0]["node_id"]))
        ours = [topic for topic in topics if _is_of(topic["topic"], settings.namespace)]
        lowest = min(ours, key=_replicas, default=None)
        topic = {} if lowest is None else await _configuration(admin, ConfigResourceType.TOPIC, lowest["topic"])
    except (KafkaError, OSError, TimeoutError) as problem:
        why = f"the Kafka cluster does not answer: {problem or type(problem).__name__}"
        raise BrokerUnavailable(why, hint="is it up, and are address and password right?") from problem
    finally:
        await admin.close()
    return [
        Finding("kafka acks", "all", "", ""),
        *_of_topics(len(brokers), broker, ours, topics),
        *of_settings(
            {**broker, **topic}, min((_replicas(one) for one in ours), default=int(broker.get("default.replication.factor") or 1))
        ),
        _size(broker, settings.max_message_bytes),
    ]


def _is_of(topic: str, namespace: str) -> bool:
    return topic.startswith(f"stepmesh.{namespace}.")


def _replicas(topic: Mapping[str, Any]) -> int:
    return min((len(partition["replicas"]) for partition in topic["partitions"]), default=1)


def _of_topics(brokers: int, broker: Mapping[str, str | None], ours: list[Any], topics: list[Any]) -> Iterator[Finding]:
    yield Finding(
        "kafka brokers",
        str(brokers),
        "the loss of the only one stops everything" if brokers == 1 else "",
        "3 brokers" if brokers == 1 else "",
    )
    default = int(broker.get("default.replication.factor") or 1)
    yield _factor("kafka default.replication.factor", default, "default.replication.factor=3 on the brokers, or ?replicas=3 in the URL")
    for topic in sorted(ours, key=lambda one: str(one["topic"])):
        missing = sum(len(partition["isr"]) < len(partition["replicas"]) for partition in topic["partitions"])
        found = _factor(f"kafka topic {topic['topic']}", _replicas(topic), "kafka-reassign-partitions.sh gives it more")
        behind = f"{missing} of its {len(topic['partitions'])} partitions have a replica that is behind or away" if missing else ""
        yield found._replace(means=behind, fix="see the brokers' logs") if behind and not found.means else found
    offsets = next((topic for topic in topics if topic["topic"] == OFFSETS_TOPIC), None)
    if offsets is None:
        given = int(broker.get("offsets.topic.replication.factor") or 1)
        yield _factor("kafka offsets.topic.replication.factor", given, "offsets.topic.replication.factor=3 before the first consumer")
    else:
        yield _factor(f"kafka topic {OFFSETS_TOPIC}", _replicas(offsets), "kafka-reassign-partitions.sh gives it more")


def _factor(name: str, replicas: int, fix: str) -> Finding:
    return Finding(name, f"{replicas} replica{'' if replicas == 1 else 's'}", *((_ALONE, fix) if replicas == 1 else ("", "")))


def of_settings(said: Mapping[str, str | None], replicas: int) -> Iterator[Finding]:
    """What the settings of brokers and topics mean, where topics have so many replicas."""
    least = int(said.get("min.insync.replicas") or 1)
    lost = "what one broker acknowledged while the others were away is lost with it" if least < 2 <= replicas else ""
    lost = "no write succeeds while one broker is away" if least >= replicas > 1 else lost
    yield Finding("kafka min.insync.replicas", str(least), lost, f"min.insync.replicas={max(1, replicas - 1)}" if lost else "")
    unclean = said.get("unclean.leader.election.enable") == "true"
    means = "a replica that was behind may become leader: acknowledged records are lost" if unclean else ""
    yield Finding("kafka unclean.leader.election", str(unclean).lower(), means, "unclean.leader.election.enable=false" if unclean else "")
    flush = said.get("log.flush.interval.messages") or said.get("flush.messages")
    if flush is None:
        yield Finding(
            "kafka log.flush.interval.messages", NOT_VISIBLE, "the cluster does not tell it to this user", "permit DescribeConfigs"
        )
        return
    always = flush == "1"
    alone = "power loss of a broker takes what its system had not flushed of the topics that it alone has"
    several = "power loss of all replicas at once takes what the systems had not flushed; of one, nothing if others have it"
    means = "" if always else several if replicas > 1 else alone
    yield Finding("kafka log.flush.interval.messages", flush, means, "" if replicas > 1 or always else "more replicas")


def _size(said: Mapping[str, str | None], wanted: int) -> Finding:
    size = int(said.get("message.max.bytes") or 0)
    if not size:
        return Finding("kafka message.max.bytes", NOT_VISIBLE, "the cluster does not tell it to this user", "permit DescribeConfigs")
    small = size < wanted
    means = "topics that are not made by Stepmesh refuse larger messages: nothing is lost" if small else ""
    return Finding("kafka message.max.bytes", f"{size:,} bytes", means, "")


async def _configuration(admin: Any, kind: ConfigResourceType, name: str) -> dict[str, str | None]:
    """Its settings by name; empty when this user may not see them."""
    [answer] = await admin.describe_configs([ConfigResource(kind, name)])
    found: dict[str, str | None] = {}
    for error, _, _, _, entries in answer.resources:
        if error == 0:
            found.update({entry[0]: entry[1] for entry in entries})
    return found
