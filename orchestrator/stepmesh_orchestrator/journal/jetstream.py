"""The Journal port over NATS JetStream: the frames of a namespace in one stream, its snapshots in another.

The stream that is there decides what a returned append survives: three replicas keep it over the loss of a machine; one is flushed to disk
by the server's `sync_interval`, so it survives the death of every process, and no power cut. The journal's id and format stand in
the stream's metadata. Must not know what frames hold.
"""

from __future__ import annotations

import secrets
from typing import Literal

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, StreamInfo

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.nats.connection import Connection
from stepmesh_broker.nats.records import Refused, StreamRecords
from stepmesh_broker.nats.settings import NatsSettings
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.subjects import checked_name
from stepmesh_orchestrator.journal.framing import FORMAT
from stepmesh_orchestrator.journal.jetstream_log import JetStreamLog
from stepmesh_orchestrator.journal.log_journal import LogJournal
from stepmesh_orchestrator.journal.rules import JournalAbsent, JournalFormatError, JournalUnavailable

_ID = "stepmesh-journal"
_FORMAT = "stepmesh-format"
_SAFE_REPLICAS = 3


class JetStreamJournal(LogJournal):
    """The journal of `namespace` at `url`, as `NatsSettings.parse` takes it. `replicas` counts when the streams are made; None: as the URL
    says, else one. `make`: False refuses a journal that is not there (SM-4222)."""

    def __init__(self, url: str, namespace: Namespace, replicas: int | None = None, *, make: bool = True) -> None:
        settings = NatsSettings.parse(url, namespace)
        self._name = f"stepmesh_{checked_name('namespace', namespace)}"
        self._subjects = f"stepmesh.{namespace}"
        self._make = make
        self._replicas = replicas or settings.replicas or 1
        self._connection = Connection(settings)
        self._records = StreamRecords(self._connection)
        where = f"nats://{','.join(server.removeprefix('nats://') for server in settings.url)}/{namespace}"
        super().__init__(self._log_of("journal", where), self._log_of("snapshots", where), where)

    @property
    def durability(self) -> Literal["replicated", "process"]:
        """See the port."""
        return "replicated" if self._replicas >= _SAFE_REPLICAS else "process"

    @property
    def survives(self) -> str:
        """See the port."""
        if self._replicas >= _SAFE_REPLICAS:
            return "the loss of a machine, as long as most of the others keep their power"
        return (
            "the crash of every process; power loss takes what the server had not flushed (its sync_interval, 2 minutes unless it is set),"
            " the loss of its disk everything"
        )

    async def open(self) -> None:
        """See the port. SM-4005 when there is no JetStream, SM-4006 when a stream of that name is no journal of this format."""
        try:
            await self._connection.connect()
            try:
                journal = await self._ensure("journal")
                snapshots = await self._ensure("snapshots")
            except BaseException:
                await self._connection.close()
                raise
        except (BrokerUnavailable, TimeoutError, Refused) as problem:
            raise JournalUnavailable(
                f"the journal in {self.where} cannot be opened: {problem}", hint="is nats-server up, with JetStream?"
            ) from problem
        self._replicas = min(journal.config.num_replicas or 1, snapshots.config.num_replicas or 1)
        self.identify((journal.config.metadata or {})[_ID])

    async def close(self) -> None:
        """See the port."""
        await self.drain()
        await self._connection.close()

    async def _ensure(self, kind: str) -> StreamInfo:
        wanted = self._config(kind)
        info = await (self._records.ensure(wanted) if self._make else self._records.find(wanted.name or ""))
        if info is None:
            raise JournalAbsent.of(self.where)
        found = (info.config.metadata or {}).get(_FORMAT)
        if found != str(FORMAT) or info.config.retention != RetentionPolicy.LIMITS:
            raise JournalFormatError(
                f"the stream {info.config.name} of {self.where} is no journal of format {FORMAT}, which this release reads",
                hint="run the release that wrote it, or choose another namespace",
            )
        return info

    def _config(self, kind: str) -> StreamConfig:
        return StreamConfig(
            name=f"{self._name}_{kind}",
            subjects=[f"{self._subjects}.{kind}.*"],
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.NEW,  # nothing goes by itself
            storage=StorageType.FILE,
            num_replicas=self._replicas,
            allow_direct=True,
            metadata={_ID: secrets.token_hex(16), _FORMAT: str(FORMAT)},
        )

    def _log_of(self, kind: str, where: str) -> JetStreamLog:
        return JetStreamLog(self._records, f"{self._name}_{kind}", f"{self._subjects}.{kind}", where)
