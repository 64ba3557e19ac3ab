"""A plain nats-py client: asynchronous JetStream publishes, push consumers with explicit acknowledgement.

Durability is that of the scenario: storage and replicas are read from its two streams.
"""

from __future__ import annotations

import asyncio
from typing import Any

import nats
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig

from stepmesh_broker.nats.settings import NatsSettings
from stepmesh_broker.nats.streams import Names
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_cli.bench.raw.place import Client, Place, Role

_TIMEOUT_S = 10.0


class NatsSide:
    """`Side` over one connection. `hear` is the callback of its consumer."""

    def __init__(self, connection: Any, subject: str) -> None:
        self._connection = connection
        self._js = connection.jetstream(timeout=_TIMEOUT_S)
        self._subject = subject
        self._sent: list[asyncio.Future[Any]] = []
        self._came = 0
        self._news = asyncio.Event()

    async def hear(self, message: Msg) -> None:
        """A message, which is acknowledged at once."""
        await message.ack()
        self._came += 1
        self._news.set()

    async def send(self, messages: int, size: int) -> None:
        """As many at once as the client allows to be unacknowledged."""
        payload = bytes(size)
        self._sent = [one for one in self._sent if not one.done() or one.exception() is not None]
        for _ in range(messages):
            self._sent.append(await self._js.publish_async(self._subject, payload))

    async def sent(self) -> None:
        """Acknowledged by JetStream."""
        await asyncio.gather(*self._sent)
        self._sent = []

    async def take(self) -> int:
        """All that was heard."""
        await self._news.wait()
        self._news.clear()
        came, self._came = self._came, 0
        return came

    async def close(self) -> None:
        """Flush, then disconnect."""
        await self._connection.close()


def _streams(place: Place) -> tuple[str, str]:
    return f"{place.name}-tasks", f"{place.name}-results"


async def _connected(place: Place) -> Any:
    settings = NatsSettings.parse(place.url)
    return await nats.connect(
        servers=list(settings.url), user=settings.user, password=settings.password, token=settings.token,
        user_credentials=settings.credentials_file, tls=settings.tls, inbox_prefix=settings.inbox_prefix,
    )  # fmt: skip


async def make(place: Place) -> None:
    """A stream for each way, as durable as the one of the scenario that carries the same."""
    names = Names(Namespace(place.namespace))
    connection = await _connected(place)
    try:
        js = connection.jetstream(timeout=_TIMEOUT_S)
        for own, theirs in zip(_streams(place), (names.tasks, names.inbox), strict=True):
            found = (await js.stream_info(theirs)).config
            config = StreamConfig(
                name=own, subjects=[own], retention=RetentionPolicy.WORK_QUEUE, storage=found.storage, num_replicas=found.num_replicas
            )
            await js.add_stream(config)
    finally:
        await connection.close()


async def opened(place: Place, role: Role) -> NatsSide:
    """Connected, with its consumer."""
    connection = await _connected(place)
    tasks, results = _streams(place)
    mine, other = (tasks, results) if role == "worker" else (results, tasks)
    side = NatsSide(connection, other)
    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=-1)
    js = connection.jetstream(timeout=_TIMEOUT_S)
    await js.subscribe(mine, durable=role, stream=mine, config=config, cb=side.hear, manual_ack=True)
    return side


async def remove(place: Place) -> None:
    """The two streams, with their consumers."""
    connection = await _connected(place)
    try:
        for stream in _streams(place):
            await connection.jetstream(timeout=_TIMEOUT_S).delete_stream(stream)
    finally:
        await connection.close()


CLIENT = Client(make, opened, remove, (NatsError,))
