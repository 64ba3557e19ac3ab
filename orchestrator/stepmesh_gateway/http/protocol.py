"""HTTP/1.1 on one connection: uvicorn's parser and flow control, with the limits on time and size that it lacks.

Invariant: whatever the peer does or leaves undone, the connection ends: a head that grows or dawdles, a body that nobody reads any more, a
reader that takes nothing, a connection without requests.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from stepmesh_broker.errors import StepmeshError
from stepmesh_gateway.http.refusals import error_response, head_too_large, too_slow
from stepmesh_gateway.settings import Limits

LINGER_S = 5.0
"""How long the rest of a request may come that was refused, in seconds; then the connection is cut."""


class HttpServing:
    """What all connections of one door share. `protocol` makes the next one; `stop` ends them."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.limits = limits
        self.state = ServerState()
        self.config = Config(
            app,  # pyright: ignore[reportArgumentType]  # Starlette's types of ASGI and uvicorn's are the same, spelled twice
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        self.config.load()
        logging.getLogger("uvicorn.error").addFilter(_not_of_peers)

    def protocol(self) -> HttpConnection:
        """For a connection that was accepted."""
        return HttpConnection(self)

    async def stop(self, drain_s: float) -> None:
        """Requests that run get `drain_s` to end; connections without one are closed at once."""
        for connection in list(self.state.connections):
            connection.shutdown()
        if self.state.tasks:
            await asyncio.wait(list(self.state.tasks), timeout=drain_s)
        for connection in list(self.state.connections):
            connection.transport.abort()
        for task in list(self.state.tasks):
            task.cancel()
        await asyncio.gather(*self.state.tasks, return_exceptions=True)


def _not_of_peers(record: logging.LogRecord) -> bool:
    """What peers send is no event for the log."""
    return record.levelno > logging.WARNING


class HttpConnection(HttpToolsProtocol):
    """One connection."""

    def __init__(self, serving: HttpServing) -> None:
        super().__init__(serving.config, serving.state, {})
        self._limits = serving.limits
        self.timeout_keep_alive = serving.limits.idle_s  # type: ignore[assignment]  # uvicorn's timer takes parts of a second
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._head = 0  # bytes of the head that comes
        self._begun = 0  # heads that began in this read
        self._open = 0  # requests without their whole answer
        self._in_head = False
        self._in_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first head is due."""
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn narrows asyncio's type
        self._due(self._limits.arrival_s, self._dawdled)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._settle()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A part of a head, a body, or several requests."""
        if self._refused or self.transport.is_closing():
            return
        fresh, self._begun = self._idle, 0
        super().data_received(data)
        if self._in_head:
            self._count(len(data), fresh)
        elif self._idle:
            self._due(self._limits.idle_s, self.transport.close)

    @property
    def _idle(self) -> bool:
        return not (self._in_head or self._in_body or self._open)

    def _count(self, received: int, fresh: bool) -> None:
        """A head that has not come whole; one that began behind something else in the same read is counted from the next read on."""
        if not self._begun:
            self._head += received
        else:
            self._head = received if fresh and self._begun == 1 else 0
        if self._head > self._limits.header_bytes:
            self._refuse(head_too_large(self._limits.header_bytes))

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head = True
        self._begun += 1
        self._due(self._limits.arrival_s, self._dawdled)

    def on_headers_complete(self) -> None:
        """The application takes over, and sees to the body."""
        self._in_head, self._in_body = False, True
        self._open += 1
        self._settle()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The whole request is here."""
        self._in_body = False
        self._settle()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A body that still comes then is nobody's."""
        self._open -= 1
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            self._due(LINGER_S, self.transport.abort)

    def pause_writing(self) -> None:
        """The reader is slow; the application waits for it, for a while."""
        super().pause_writing()
        self._stuck = self.loop.call_later(self._limits.idle_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It goes on."""
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP."""
        self._refuse(_NotHttp("this is no HTTP/1.1 request", hint="send HTTP/1.1, or HTTP/2 without TLS for gRPC"))

    def _dawdled(self) -> None:
        self._refuse(too_slow("head", self._limits.arrival_s))

    def _refuse(self, problem: StepmeshError) -> None:
        """Say why, and hear the peer out for a while: a socket that is closed at once may take the answer with it."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if self._open:  # an answer to what came before is being written
            self.transport.close()
            return
        self.transport.write(refusal_bytes(problem))
        self.transport.write_eof()
        self._due(LINGER_S, self.transport.abort)

    def _due(self, delay_s: float, work: Any) -> None:
        self._settle()
        self._deadline = self.loop.call_later(delay_s, work)

    def _settle(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _NotHttp(StepmeshError):
    default_code = "SM-7110"


def refusal_bytes(problem: StepmeshError) -> bytes:
    """A whole answer, for a connection that has no request; it is closed then."""
    response = error_response(problem)
    headers = {**dict(response.headers), "connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {response.status_code} {problem.code}\r\n{lines}\r\n".encode("latin-1") + bytes(response.body)
