"""A partition's inbox on its way into the shard: messages in their order, submissions with their flows, what cannot be used parked.

Invariant: every position reaches the shard once, with its message or without one. Broker and store may be away: then a message waits, and
those after it. It must not know how a submission is judged.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from stepmesh_broker.errors import BrokerUnavailable, MalformedMessage, MessageTooLarge
from stepmesh_broker.ports import Broker, Inbox, InboxEntry
from stepmesh_broker.protocol.codec import decode_inbox
from stepmesh_broker.protocol.ids import Pool
from stepmesh_broker.protocol.letters import Letters
from stepmesh_broker.protocol.messages import Accepted, Cancel, Refused, Submit
from stepmesh_orchestrator.core.commands import StartRun
from stepmesh_orchestrator.core.decide.letters import addressee
from stepmesh_orchestrator.ports import Clock, StoreError
from stepmesh_orchestrator.runtime.dormitory import Dormitory
from stepmesh_orchestrator.runtime.inputs import MAX_MESSAGES
from stepmesh_orchestrator.runtime.shard import Shard

log = logging.getLogger("stepmesh.partition")
RETRY_S = 0.25
_FETCH_S = 5.0

Admit = Callable[[Submit], Awaitable[StartRun | Accepted | Refused | None]]
"""What becomes of a submission: it is decided on here, or it is answered already, or somebody else answers it (None)."""


class InboxReading:
    """Of one shard. `room` returns when it can take new work: nothing is read before that."""

    def __init__(
        self, broker: Broker, clock: Clock, shard: Shard, dormitory: Dormitory, admit: Admit, room: Callable[[], Awaitable[None]]
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._shard = shard
        self._dormitory = dormitory
        self._admit = admit
        self._room = room

    async def run(self, inbox: Inbox) -> None:
        """For ever. Raises `StoreError` that is not retryable."""
        while True:
            await self._room()
            try:
                entries = await inbox.fetch(MAX_MESSAGES, _FETCH_S)
            except BrokerUnavailable as problem:
                log.info("the inbox is away: %s", problem)
                await self._clock.sleep(RETRY_S)
                continue
            for entry in entries:
                await self._receive(entry)

    async def _receive(self, entry: InboxEntry) -> None:
        while True:
            try:
                await self._hand_over(entry)
                return
            except (BrokerUnavailable, StoreError) as problem:
                if isinstance(problem, StoreError) and not problem.retryable:
                    raise
                log.warning("a message of the inbox waits: %s", problem)
                await self._clock.sleep(RETRY_S)

    async def _hand_over(self, entry: InboxEntry) -> None:
        shard = self._shard
        try:
            message = decode_inbox(entry.data)
            if isinstance(message, Cancel):
                await self._dormitory.awake(message.run)
            elif isinstance(message, Letters):
                await self._dormitory.awake(*filter(None, map(addressee, message.letters)))
            admitted = await self._admit(message) if isinstance(message, Submit) else message
        except MalformedMessage as problem:
            message, admitted = None, Refused(problem.code, problem.message)
        if isinstance(admitted, Refused):
            shard.counters.malformed += 1
            log.warning("a message of the inbox cannot be used and is parked: %s %s", admitted.code, admitted.message)
            await self._park(entry, f"{admitted.code} {admitted.message}")
        if isinstance(admitted, Refused | Accepted):
            if isinstance(message, Submit) and message.reply_to:
                shard.dispatcher.reply(message.reply_to, admitted)
            shard.receive(entry.position, None)
        elif isinstance(admitted, StartRun):
            shard.receive(entry.position, admitted.submit, admitted.flow)
        else:
            shard.receive(entry.position, admitted)

    async def _park(self, entry: InboxEntry, reason: str) -> None:
        try:
            await self._broker.park(Pool("inbox"), entry.data, reason)
        except MessageTooLarge as problem:
            log.error("a message of the inbox cannot be parked and is dropped: %s (%s)", reason, problem)
