"""A work queue for workers of another system: stream `<name>`, one subject `<name>.tasks`, a message is gone once a worker took it.

Invariant: `put` returns when the server has the message; `first` says from where on nobody took any yet. It must not know what
the messages mean, nor who takes them.
"""

from __future__ import annotations

import logging
import re

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js.api import RetentionPolicy, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from stepmesh_broker.errors import BrokerError, BrokerUnavailable, MessageTooLarge
from stepmesh_broker.nats.streams import as_broker_error

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_NAME_IN_USE = 10058
_GONE = (10037, 10043, 10057)  # "no message found", "sequence … not found" of a deleted one
_API_TIMEOUT_S = 2.0
_RETRY_S = 1


class WorkQueue:
    """One connection of its own, because the server may be another one than the broker's."""

    def __init__(self, url: str, name: str) -> None:
        """Raises `BrokerError` for a name that no stream can have."""
        if not _NAME.fullmatch(name):
            raise BrokerError(f"{name!r} is not the name of a stream", code="SM-3015", hint="use letters, digits, - and _")
        self.name = name
        self._url = url
        self._client = Client()
        self._stream = self._client.jetstream(timeout=_API_TIMEOUT_S)

    @property
    def subject(self) -> str:
        """Where the messages go."""
        return f"{self.name}.tasks"

    @property
    def max_message_bytes(self) -> int:
        """What the server takes."""
        return self._client.max_payload

    async def open(self) -> None:
        """Connect, and make the stream unless it is there; it reconnects by itself afterwards. Raises `BrokerUnavailable`, or
        `BrokerError` for a stream of another kind."""
        try:
            await self._client.connect(
                self._url,
                name=f"stepmesh work queue {self.name}",
                max_reconnect_attempts=1,  # the first time who opens is told, and decides when to try again
                reconnect_time_wait=_RETRY_S,
                connect_timeout=int(_API_TIMEOUT_S),
                error_cb=self._error,
            )
            self._client.options["max_reconnect_attempts"] = -1
            await self._ensure()
        except BrokerError:
            await self._client.close()
            raise
        except (TimeoutError, OSError, NatsError) as problem:
            await self._client.close()
            raise as_broker_error(problem, f"stream {self.name}") from problem

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        await self._client.close()

    async def put(self, data: bytes) -> int:
        """The position of the message. Raises `MessageTooLarge`, `BrokerUnavailable`, `BrokerError`."""
        try:
            return (await self._stream.publish(self.subject, data)).seq
        except NoStreamResponseError as problem:
            await self._ensure()
            raise BrokerUnavailable(f"the stream {self.name} was removed, and is made again", hint="try again") from problem
        except MaxPayloadError as problem:
            raise MessageTooLarge.of(len(data), self.max_message_bytes) from problem
        except (TimeoutError, OSError, NatsError) as problem:
            raise as_broker_error(problem, f"stream {self.name}") from problem

    async def first(self) -> int:
        """The lowest position that nobody took yet; above all positions when there is none. Raises `BrokerUnavailable`."""
        try:
            return (await self._stream.stream_info(self.name)).state.first_seq
        except (TimeoutError, OSError, NatsError) as problem:
            raise as_broker_error(problem, f"stream {self.name}") from problem

    async def clear(self) -> None:
        """Remove whatever lies there. Raises `BrokerUnavailable`."""
        try:
            await self._stream.purge_stream(self.name)
        except (TimeoutError, OSError, NatsError) as problem:
            raise as_broker_error(problem, f"stream {self.name}") from problem

    async def remove(self, position: int) -> bool:
        """Take a message back; False when a worker took it before. Raises `BrokerUnavailable`."""
        try:
            return await self._stream.delete_msg(self.name, position)
        except NotFoundError:
            return False
        except APIError as problem:
            if problem.err_code in _GONE:
                return False
            raise as_broker_error(problem, f"stream {self.name}") from problem
        except (TimeoutError, OSError, NatsError) as problem:
            raise as_broker_error(problem, f"stream {self.name}") from problem

    async def _ensure(self) -> None:
        try:
            found = await self._stream.stream_info(self.name)
        except NotFoundError:
            try:
                await self._stream.add_stream(StreamConfig(name=self.name, subjects=[self.subject], retention=RetentionPolicy.WORK_QUEUE))
            except APIError as problem:
                if problem.err_code != _NAME_IN_USE:
                    raise
            found = await self._stream.stream_info(self.name)
        subjects = found.config.subjects or []
        if found.config.retention != RetentionPolicy.WORK_QUEUE or not {self.subject, f"{self.name}.*", f"{self.name}.>"} & set(subjects):
            raise BrokerError(
                f"the stream {self.name} is no work queue with the subject {self.subject}",
                code="SM-3015",
                hint="name another stream, or remove that one",
            )

    async def _error(self, problem: Exception) -> None:
        _log.info("nats, stream %s: %s", self.name, problem or type(problem).__name__)
