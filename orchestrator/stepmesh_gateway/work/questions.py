"""Questions to durable functions of connected workers: heard in their names, passed on to one of them, answered with its word.

Invariant: while no connected worker of a pool offers a function, its questions go to others. One whose worker went away is asked of the
next, and given back when there is none here. No task and no credit is touched. It must not know what is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

from stepmesh_broker.errors import BrokerError, MalformedMessage
from stepmesh_broker.ports import Broker, Subscription
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.codec import decode_query, encode
from stepmesh_broker.protocol.ids import Namespace, Pool
from stepmesh_broker.protocol.messages import Refused
from stepmesh_gateway.work.seat import Seat

log = logging.getLogger("stepmesh.gateway")

WAIT_S = 5.0
"""How long a worker may take to answer, in seconds; the orchestrator waits no longer."""
PAGED_S = 30.0
"""The same of one that reads the history first, page by page."""
OVERHEAD = 1024
"""Bytes of a message to a worker beside the question that it carries."""


class Questions:
    """Of all pools at one gateway. `seats_of`: a pool's workers that are connected now."""

    def __init__(self, broker: Broker, namespace: Namespace, seats_of: Callable[[Pool], Iterable[Seat]]) -> None:
        self._broker = broker
        self._namespace = namespace
        self._seats_of = seats_of
        self._heard: dict[Pool, Subscription] = {}
        self._lock = asyncio.Lock()
        self._closed = False

    async def attend(self, pool: Pool) -> None:
        """Hear the pool's questions while one of its workers here offers a function. Where the broker is away, or forbids it, it is tried
        again with the next call."""
        async with self._lock:
            wanted, heard = not self._closed and any(map(_offers_functions, self._seats_of(pool))), self._heard.get(pool)
            if wanted and heard is None:
                try:
                    subject = subjects.queries(self._namespace, pool)
                    self._heard[pool] = await self._broker.serve(subject, partial(self._answer, pool), group=pool)
                except BrokerError as problem:
                    log.warning("queries to functions of pool %s are not heard here: %s", pool, problem)
            elif heard is not None and not wanted:
                del self._heard[pool]
                await heard.close()

    async def close(self) -> None:
        """Hear no more; what was asked is answered."""
        self._closed = True
        for pool in [*self._heard]:
            await self.attend(pool)

    async def _answer(self, pool: Pool, data: bytes) -> bytes:
        try:
            asked = decode_query(data)
            async with asyncio.timeout(PAGED_S if asked.question else WAIT_S):
                return await self._asked(pool, asked.task.component, data)
        except MalformedMessage as problem:
            return encode(Refused(problem.code, problem.message, problem.hint))
        except TimeoutError:
            return encode(_gone(pool))

    async def _asked(self, pool: Pool, path: str, data: bytes) -> bytes:
        while offering := [seat for seat in self._seats_of(pool) if _offers(seat, path)]:
            largest = max(seat.hello.message_bytes for seat in offering) - OVERHEAD
            if len(data) > largest:
                return encode(_too_large(len(data), largest))
            fitting = [seat for seat in offering if len(data) <= seat.hello.message_bytes - OVERHEAD]
            answer = await min(fitting, key=lambda seat: seat.asked).ask(data)
            if answer is not None:
                return answer
        return encode(_gone(pool))


def _offers_functions(seat: Seat) -> bool:
    return seat.catalogue is not None and any(offer.function for offer in seat.catalogue.offers)


def _offers(seat: Seat, path: str) -> bool:
    found = None if seat.gone or seat.catalogue is None else seat.catalogue.find(path)
    return found is not None and found.function


def _gone(pool: Pool) -> Refused:
    message = f"the worker of pool {pool} that a query was on its way to has gone, and no other one with the function is at this gateway"
    return Refused("SM-5133", message, "ask again")


def _too_large(size: int, limit: int) -> Refused:
    message = f"the question, {size} bytes, does not fit into a message of {limit} bytes from the gateway to its worker"
    return Refused("SM-5134", message, "give fewer arguments; or raise the worker's and the gateway's message_bytes")
