"""Says hello in the name of connected workers, as workers at the broker do themselves: when they come, every few seconds, when they go."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from stepmesh_broker.errors import BrokerUnavailable, MessageTooLarge
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.messages import ComponentInfo, Hello
from stepmesh_gateway.work.seat import Seat

log = logging.getLogger("stepmesh.gateway")


class Presence:
    """Over one broker connection."""

    def __init__(self, broker: Broker, namespace: Namespace) -> None:
        self._broker = broker
        self._namespace = namespace

    async def hello(self, seats: Iterable[Seat], stopping: bool = False) -> None:
        """These are there, or (`stopping`) go. Of a queue it is said once a worker took something from it."""
        for seat in seats:
            catalogue = seat.catalogue
            if seat.hello.queue and catalogue is None:
                continue
            infos = (
                []
                if catalogue is None
                else [
                    ComponentInfo(one.path, one.description, one.input_schema, one.output_schema, one.version) for one in catalogue.offers
                ]
            )
            try:
                try:
                    await self._say(seat, infos, stopping)
                except MessageTooLarge as problem:
                    log.error("the schemas of %d components of worker %s are left out: %s", len(infos), seat.worker, problem)
                    await self._say(seat, [ComponentInfo(info.path, version=info.version) for info in infos], stopping)
            except BrokerUnavailable as problem:
                log.info("nobody heard worker %s: %s", seat.worker, problem)

    async def _say(self, seat: Seat, infos: list[ComponentInfo], stopping: bool) -> None:
        who = seat.hello
        capacity = max(who.capacity, seat.most)
        hello = Hello(who.worker, who.pool, capacity, who.version, infos, seat.begun, stopping, who.exclusive)
        await self._broker.send(subjects.presence(self._namespace), codec.encode(hello))
