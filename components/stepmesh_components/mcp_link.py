"""A standing connection to one MCP server: opened, kept, opened again with growing pauses when it ends.

Invariant: whoever waits here hears either of an open connection or of a start that failed, never nothing. Calls are made over
`connection()` from any task, many at a time; what they mean is not known here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import anyio
from mcp import Client, Tool
from mcp.client.session import IncomingMessage
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp.types import Implementation, ToolListChangedNotification
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from stepmesh_components.mcp_server import McpServer
from stepmesh_components.mcp_transport import Ending, transport

log = logging.getLogger("stepmesh.mcp")

BACKOFF_S = (0.1, 10.0)
"""Pause before the next start: first, and largest (seconds); it doubles while starts fail quickly."""
HEALTHY_AFTER_S = 10.0
"""A connection that lasted this long begins again with the first pause, in seconds."""
LAST_WORDS_S = 1.0
"""How long the report of a call waits for what an ended server still says, in seconds."""
RELISTEN_S = 1.0
"""Pause before a subscription to changes that was lost is opened again, in seconds."""
SHOWN = 200
"""Characters that are shown of what is no message."""
MOST_PAGES = 100
"""Pages of a listing of tools: a server that never ends its listing is cut off."""


class Down(Exception):
    """The server is not there now. `lines`: the last ones of its stderr."""

    def __init__(self, message: str, lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.lines = lines


class Connection(NamedTuple):
    """An open connection, and what will be known of its end."""

    client: Client
    ending: Ending


class Link:
    """`tools` by name, as the server told last; they stay while it is away. `changed` hears when they are other ones."""

    def __init__(self, server: McpServer, changed: Callable[[], None]) -> None:
        self.server = server
        self.tools: dict[str, Tool] = {}
        self._changed = changed
        self._open: Connection | None = None
        self._down: tuple[str, tuple[str, ...]] | None = None
        self._news = anyio.Event()
        self._stale = anyio.Event()
        self._scope = anyio.CancelScope()
        self._mode = "auto"
        self._reported = ""  # of the last start that failed; the same is not told twice

    async def keep(self) -> None:
        """Be connected until `stop`."""
        with self._scope:
            pause, most = BACKOFF_S
            while True:
                began = anyio.current_time()
                self._down = None
                await self._once()
                if anyio.current_time() - began > HEALTHY_AFTER_S:
                    pause = BACKOFF_S[0]
                await anyio.sleep(pause)
                pause = min(pause * 2, most)

    def stop(self) -> None:
        """End the connection, and a server that was started for it."""
        self._scope.cancel()

    async def connection(self) -> Connection:
        """The open connection; waits while the server starts. Raises `Down` when it could not be started."""
        while self._open is None:
            if self._down is not None:
                raise Down(*self._down)
            await self._news.wait()
        return self._open

    async def ended(self, connection: Connection) -> Down | None:
        """How a connection ended, once the server's last words are heard; None when it is there still."""
        if not connection.ending.over.is_set():
            return None
        with anyio.move_on_after(LAST_WORDS_S):
            await connection.ending.told.wait()
        return Down(f"the MCP server {self.server.name} ended during the call", tuple(connection.ending.lines))

    async def refresh(self, client: Client) -> None:
        """Ask for the tools. Raises `MCPError`."""
        tools: dict[str, Tool] = {}
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            page = await client.list_tools(cursor=cursor)
            tools.update((tool.name, tool) for tool in page.tools)
            cursor = page.next_cursor
            if cursor is None:
                break
        if tools != self.tools:
            self.tools = tools
            self._changed()

    # --- one connection -----------------------------------------------------------------------------------------

    async def _once(self) -> None:
        """From the start of one connection to its end; tells what ended it."""
        ending = Ending()
        problem: Exception | None = None
        connected = False
        with anyio.CancelScope(deadline=anyio.current_time() + self.server.start_timeout_s) as starting:
            try:
                async with self._new_client(ending) as client:
                    await self.refresh(client)
                    starting.deadline = math.inf
                    connected = True
                    await self._attend(Connection(client, ending))
            except Exception as raised:  # whatever a foreign server does to its connection is told, and tried again
                problem = raised
        if connected:
            log.warning("the MCP server %s ended and is started again%s", self.server.name, _shown(ending))
            self._reported = ""
            return
        self._mode = "auto" if self._mode == "legacy" else "legacy"  # some older servers end at a first message that they do not know
        why = f"it did not tell its tools within {self.server.start_timeout_s:g} s" if problem is None else _told(problem)
        what = f"the MCP server {self.server.name} ({self.server.place}) cannot be reached: {why}"
        log.log(logging.DEBUG if what == self._reported else logging.WARNING, "%s%s", what, _shown(ending))
        self._reported = what
        self._now(None, (what, tuple(ending.lines)))

    def _new_client(self, ending: Ending) -> Client:
        who = Implementation(name="stepmesh", version="1")
        return Client(transport(self.server, ending), mode=self._mode, message_handler=self._heard, client_info=who, cache=None)

    def _now(self, connection: Connection | None, down: tuple[str, tuple[str, ...]] | None) -> None:
        self._open, self._down = connection, down
        self._news.set()
        self._news = anyio.Event()

    async def _heard(self, message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._stale.set()
        elif isinstance(message, ValidationError):
            said = str(message.errors()[0].get("input"))[:SHOWN]
            log.warning("the MCP server %s writes to its stdout what is no message: %s", self.server.name, said)

    async def _attend(self, connection: Connection) -> None:
        """Until the connection is over, keep the tools as the server tells them."""
        client, ending = connection
        self._now(connection, None)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._refresh_when_stale, client)
                if client.protocol_version in MODERN_PROTOCOL_VERSIONS and _tells_changes(client):
                    group.start_soon(self._subscribe, client)
                await ending.over.wait()
                group.cancel_scope.cancel()
        finally:
            ending.over.set()
            self._now(None, None)

    async def _refresh_when_stale(self, client: Client) -> None:
        while True:
            await self._stale.wait()
            self._stale = anyio.Event()
            try:
                await self.refresh(client)
            except MCPError as problem:
                log.warning("the MCP server %s does not tell its tools: %s", self.server.name, problem)

    async def _subscribe(self, client: Client) -> None:
        """Have changes told, which newer servers do only on request; each also comes to `_heard`."""
        while True:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    self._stale.set()  # what changed before this began was told to nobody
                    async for _ in changes:
                        self._stale.set()
            except (MCPError, SubscriptionLost) as problem:
                log.debug("the MCP server %s does not tell of changes now: %s", self.server.name, problem)
            await anyio.sleep(RELISTEN_S)


def _tells_changes(client: Client) -> bool:
    tools = client.server_capabilities.tools
    return tools is not None and bool(tools.list_changed)


def _told(problem: BaseException) -> str:
    """What an exception says; of a group, its first leaf."""
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    said = problem.strerror if isinstance(problem, OSError) else str(problem)
    return said or type(problem).__name__


def _shown(ending: Ending) -> str:
    return "; its last lines:" + "".join(f"\n  {line}" for line in ending.lines) if ending.lines else ""
