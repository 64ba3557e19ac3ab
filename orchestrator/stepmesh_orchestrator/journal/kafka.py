"""The Journal port over Apache Kafka: the frames of a namespace in one topic, its snapshots in another, who it is in a third.

The topic that is there decides what a returned append survives: three replicas of which two must have it keep it over the loss of a
machine. Kafka itself flushes nothing to disk before it answers, so fewer survive the death of every process, and no power cut. Must not
know what frames hold.
"""

from __future__ import annotations

import secrets
from typing import Literal

import msgspec

from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.topic_log import NoAnswer, TopicFacts, TopicLogs
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.subjects import checked_name
from stepmesh_orchestrator.journal.framing import FORMAT
from stepmesh_orchestrator.journal.kafka_log import KafkaLog
from stepmesh_orchestrator.journal.log_journal import LogJournal
from stepmesh_orchestrator.journal.rules import JournalAbsent, JournalFormatError, JournalUnavailable
from stepmesh_orchestrator.ports import JournalError

_CONFIGS = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "CreateTime",
    "unclean.leader.election.enable": "false",
}
_MOST_BYTES = 1_000_000
_BATCH_ROOM = 1024
"""Bytes of a topic's `max.message.bytes`, which is of a batch, kept free for its header."""
_SAFE_REPLICAS = 3
_PATIENCE_S = 20.0
"""More than a cluster needs to see that a broker died (nine seconds) and to choose another leader."""


class _Identity(msgspec.Struct):
    journal: str
    format: int


class KafkaJournal(LogJournal):
    """The journal of `namespace` in the cluster at `url`. `partitions` counts when the topics are made; later there may be more. None: a
    journal that is not there is refused (SM-4222), and it has as many as it has."""

    def __init__(self, url: str, namespace: Namespace, partitions: int | None) -> None:
        settings = KafkaSettings.parse(url, namespace)
        where = f"kafka://{','.join(settings.bootstrap)}/{checked_name('namespace', namespace)}"
        self._topics = f"stepmesh.{namespace}"
        self._partitions = partitions
        self._logs = TopicLogs(settings, _PATIENCE_S)
        self._frames_log = KafkaLog(self._logs, f"{self._topics}.journal", where)
        self._snapshots_log = KafkaLog(self._logs, f"{self._topics}.snapshots", where)
        self._replicated = False
        self._replicas = 1
        super().__init__(self._frames_log, self._snapshots_log, where)

    @property
    def durability(self) -> Literal["replicated", "process"]:
        """See the port. Known once it is open."""
        return "replicated" if self._replicated else "process"

    @property
    def survives(self) -> str:
        """See the port."""
        if self._replicated:
            return "the loss of a machine, as long as most of the others keep their power"
        if self._replicas == 1:
            return "the crash of every process; power loss takes what the broker's system had not flushed, the loss of its disk everything"
        return "the crash of every process; what one broker took while the others were away is lost with its power or its disk"

    async def open(self) -> None:
        """See the port. SM-4005 when the cluster does not answer, SM-4006 for another format, SM-4022 for too few partitions."""
        try:
            await self._logs.open()
            try:
                await self._prepare()
            except BaseException:
                await self._logs.close()
                raise
        except NoAnswer as problem:
            raise JournalUnavailable(f"the journal in {self.where} cannot be opened: {problem}", hint="is Kafka up?") from problem

    async def close(self) -> None:
        """See the port."""
        await self.drain()
        await self._logs.close()

    async def _prepare(self) -> None:
        facts = [await self._ensure(f"{self._topics}.{kind}", self._partitions) for kind in ("journal", "snapshots")]
        self._frames_log.count = self._partitions or min(topic.partitions for topic in facts)
        self._replicas = min(topic.replicas for topic in facts)
        self._replicated = all(_survives_a_machine(topic) for topic in facts)
        limit = min([_MOST_BYTES, *(int(topic.settings.get("max.message.bytes", _MOST_BYTES)) - _BATCH_ROOM for topic in facts)])
        self._frames_log.max_entry_bytes = self._snapshots_log.max_entry_bytes = limit
        self.identify(await self._identity())

    async def _ensure(self, topic: str, partitions: int | None) -> TopicFacts:
        if partitions is None:
            found = await self._logs.find(topic)
            if found is None:
                raise JournalAbsent.of(self.where)
            return found
        facts = await self._logs.ensure(topic, partitions, _CONFIGS)
        if facts.partitions < partitions:
            raise JournalError(
                f"the topic {topic} has {facts.partitions} partitions, the deployment {partitions}",
                code="SM-4022",
                hint="give the topics of the journal as many partitions, or choose another namespace",
            )
        return facts

    async def _identity(self) -> str:
        """The first record of a topic of its own says who the journal is."""
        topic = f"{self._topics}.journal-id"
        await self._ensure(topic, self._partitions and 1)
        if not await self._logs.end(topic, 0):
            await self._logs.append(topic, 0, msgspec.json.encode(_Identity(secrets.token_hex(16), FORMAT)))
        try:
            identity = msgspec.json.decode((await self._logs.fetch(topic, 0, 0))[0].value, type=_Identity)
        except (msgspec.DecodeError, IndexError):
            identity = _Identity("", 0)
        if identity.format != FORMAT:
            raise JournalFormatError(
                f"the journal in {self.where} has format {identity.format}; this release reads format {FORMAT}",
                hint="run the release that wrote it, or choose another namespace",
            )
        return identity.journal


def _survives_a_machine(topic: TopicFacts) -> bool:
    return topic.replicas >= _SAFE_REPLICAS and int(topic.settings.get("min.insync.replicas", "1")) > 1
