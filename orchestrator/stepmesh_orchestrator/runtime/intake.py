"""Records of the submit topic on their way to runs: read by the owner of a partition, posted to the inbox of the partition of each run.

Invariant: a record is acknowledged when its submission is durable in an inbox, or its run is known, or it lies among the dead letters
with the reason. Who reads it again gets the same run id, so nothing starts twice. It must not know what records may say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from stepmesh_broker.errors import BrokerError, BrokerUnavailable, MessageTooLarge
from stepmesh_broker.ports import Broker, SubmitReader
from stepmesh_broker.protocol.codec import encode
from stepmesh_broker.protocol.ids import Partition, Pool, RunId, partition_of
from stepmesh_broker.protocol.messages import Refused, Submit
from stepmesh_broker.protocol.submission import SubmittedRecord
from stepmesh_orchestrator.ports import Clock, Store, StoreError
from stepmesh_orchestrator.runtime.admission import Admission

log = logging.getLogger("stepmesh.intake")
_T = TypeVar("_T")
POOL = Pool("submit")
"""Under this name bad records lie among the dead letters."""
AT_ONCE = 128
"""Records between two acknowledgements."""
RETRY_S = 0.25
REOPEN_S = 2.0
_FETCH_S = 5.0
_SHOWN = 60


class Intake:
    """Of one partition's share of the topic. `room` returns when the partition can take new work: nothing is read before that."""

    def __init__(
        self,
        broker: Broker,
        store: Store,
        clock: Clock,
        admission: Admission,
        partition: Partition,
        partitions: int,
        room: Callable[[], Awaitable[None]],
    ) -> None:
        self._broker = broker
        self._store = store
        self._clock = clock
        self._admission = admission
        self._partition = partition
        self._partitions = partitions
        self._room = room
        self._reader: SubmitReader | None = None
        self._closed = asyncio.Event()

    async def run(self) -> None:
        """Until `close`, or this partition has no share. Raises `StoreError` that is not retryable."""
        while not self._closed.is_set():
            try:
                self._reader = reader = await self._broker.submissions(self._partition, self._partitions)
                if reader is None:
                    return
                await self._read(reader)
            except BrokerError as problem:
                if self._closed.is_set():
                    return
                log.warning("the submit topic is read again later: %s", problem)
            await self._leave()
            await self._clock.sleep(REOPEN_S)

    async def close(self) -> None:
        """What was not acknowledged comes again to the next reader."""
        self._closed.set()
        await self._leave()

    async def _leave(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def _read(self, reader: SubmitReader) -> None:
        while not self._closed.is_set():
            await self._room()
            records = await reader.fetch(AT_ONCE, _FETCH_S)
            if records:
                await self._take(records)
                await reader.ack(records)

    async def _take(self, records: Sequence[SubmittedRecord]) -> None:
        """All of them, in their order where it matters: of several with one key the first that can start does."""
        submits: dict[RunId, tuple[Submit, SubmittedRecord]] = {}
        for record in records:
            admitted = await self._insist(lambda record=record: self._admission.read(record))  # type: ignore[misc]
            if isinstance(admitted, Refused):
                await self._refuse(record, admitted)
            else:
                submits.setdefault(admitted.run, (admitted, record))
        await asyncio.gather(*(self._start(submit, record) for submit, record in submits.values()))

    async def _start(self, submit: Submit, record: SubmittedRecord) -> None:
        """The partition knows the runs that ended lately; the read model those before."""
        if await self._insist(lambda: self._store.get_run(submit.run)) is not None:
            return
        home, data = partition_of(submit.run, self._partitions), encode(submit)
        try:
            await self._insist(lambda: self._broker.post(home, data, f"submit/{submit.run}/{record.place}"))
        except MessageTooLarge as problem:
            await self._refuse(record, Refused(problem.code, problem.message, problem.hint))

    async def _refuse(self, record: SubmittedRecord, refused: Refused) -> None:
        """Of a record that is too large for a dead letter, the beginning is kept."""
        key = f", key {record.key[:_SHOWN].decode(errors='replace')!r}" if record.key else ""
        reason = f"{refused.code} {refused.message} (record {record.place}{key})"
        log.warning("a record of the submit topic starts nothing and is parked: %s", reason)
        kept = record.value[: self._broker.max_message_bytes]
        await self._insist(lambda: self._broker.park(POOL, kept, reason))

    async def _insist(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Broker and store may be away: then the record waits, and those after it."""
        while True:
            try:
                return await call()
            except (BrokerUnavailable, StoreError) as problem:
                if isinstance(problem, StoreError) and not problem.retryable:
                    raise
                log.warning("a record of the submit topic waits: %s", problem)
                await self._clock.sleep(RETRY_S)
