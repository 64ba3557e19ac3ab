"""Records of the submit topic become runs: each is posted to the inbox of the partition of its run.

Invariant: a record is dealt with when its submission is durable in an inbox, or its run is known, or it lies among the dead letters with
the reason. Who reads it again gets the same run id, so nothing starts twice.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from stepmesh_broker.errors import MessageTooLarge
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.codec import encode
from stepmesh_broker.protocol.ids import RunId, partition_of
from stepmesh_broker.protocol.messages import Refused, Submit
from stepmesh_broker.protocol.records import PlainRecord, Topic
from stepmesh_orchestrator.ports import Clock, Store
from stepmesh_orchestrator.runtime.admission import Admission
from stepmesh_orchestrator.runtime.intake import Patience


class SubmitTopic:
    """`Taker` of submissions."""

    topic = Topic.SUBMIT

    def __init__(self, broker: Broker, store: Store, clock: Clock, admission: Admission, partitions: int) -> None:
        self._broker = broker
        self._store = store
        self._admission = admission
        self._partitions = partitions
        self._patience = Patience(broker, clock, self.topic)

    async def take(self, records: Sequence[PlainRecord]) -> None:
        """All of them, in their order where it matters: of several with one key the first that can start does."""
        submits: defaultdict[RunId, list[tuple[Submit, PlainRecord]]] = defaultdict(list)
        for record in records:
            admitted = await self._patience.insist(lambda record=record: self._admission.read(record))  # type: ignore[misc]
            if isinstance(admitted, Refused):
                await self._patience.park(record, admitted)
            else:
                submits[admitted.run].append((admitted, record))
        await asyncio.gather(*map(self._start, submits.values()))

    async def _start(self, of_run: Sequence[tuple[Submit, PlainRecord]]) -> None:
        for submit, record in of_run:
            if await self._started(submit, record):
                return

    async def _started(self, submit: Submit, record: PlainRecord) -> bool:
        """The partition knows the runs that ended lately; the read model those before."""
        if await self._patience.insist(lambda: self._store.get_run(submit.run)) is not None:
            return True
        home, data = partition_of(submit.run, self._partitions), encode(submit)
        try:
            await self._patience.insist(lambda: self._broker.post(home, data, f"submit/{submit.run}/{record.place}"))
        except MessageTooLarge as problem:
            await self._patience.park(record, Refused(problem.code, problem.message, problem.hint))
            return False
        return True
