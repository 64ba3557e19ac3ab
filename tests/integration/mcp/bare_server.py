"""An MCP server of protocol 2025-06-18 on stdio, without any library: quick to start, and as odd as a test wants it.

Flags: `--first-only` ends at a first message that is not `initialize`, as some servers do; `--silent` answers nothing; `--chatty` greets
on stdout; `--starts FILE` adds its process id to a file. What a tool does is told by its description.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

OBJECT = {"type": "object"}
PIXEL = "iVBORw0KGgo="


def tool(name: str, description: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "description": description, "inputSchema": OBJECT, **more}


SUM = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
TOOLS = {
    one["name"]: one
    for one in (
        tool("hello", "Says hello.", inputSchema=NAMED),
        tool("add", "Adds a and b.", outputSchema=SUM),
        tool("liar", "Gives another output than it declares.", outputSchema=SUM),
        tool("texts", "Gives the texts of `texts`, one block each."),
        tool("picture", "Gives a text and an image."),
        tool("fail", "Fails with the texts of `texts`."),
        tool("refuse", "Answers with the JSON-RPC error `code` and `message`."),
        tool("surroundings", "Tells its environment, folder and process id."),
        tool("die", "Says `words` on stderr and ends, if it is the first `times` starts."),
        tool("wait", "Never answers; makes the file `began`, and the file `cancelled` when it is cancelled."),
        tool("meet", "Answers when `count` calls are under way."),
        tool("advance", "Tells of progress, then answers when the file `until` is there."),
        tool("grow", "Adds the tool `name`, and tells so."),
        tool("shrink", "Removes the tool `name`, and tells so."),
    )
}


class Server:
    """One connection."""

    def __init__(self, flags: list[str]) -> None:
        self.flags = flags
        self.tools = dict(TOOLS)
        self.meeting: list[asyncio.Future[None]] = []
        self.calls: dict[Any, asyncio.Task[None]] = {}

    def send(self, **message: Any) -> None:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()

    async def run(self) -> None:
        print("the server is up", file=sys.stderr, flush=True)
        reader = asyncio.StreamReader(limit=2**26)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        first = True
        while line := await reader.readline():
            message = json.loads(line)
            if "--silent" in self.flags:
                continue
            if first and "--first-only" in self.flags and message["method"] != "initialize":
                sys.exit("expected initialize")
            first = False
            self.take(message)

    def take(self, message: dict[str, Any]) -> None:
        method, number, params = message["method"], message.get("id"), message.get("params") or {}
        if method == "initialize":
            info = {"name": "bare", "version": "1"}
            self.send(
                id=number,
                result={"protocolVersion": "2025-06-18", "capabilities": {"tools": {"listChanged": True}}, "serverInfo": info},
            )
        elif method == "tools/list":  # in two pages
            names = list(self.tools)
            half = names[5:] if params.get("cursor") else names[:5]
            more = {} if params.get("cursor") else {"nextCursor": "5"}
            self.send(id=number, result={"tools": [self.tools[name] for name in half], **more})
        elif method == "tools/call":
            self.calls[number] = asyncio.create_task(self.call(number, params))
        elif method == "notifications/cancelled":
            self.calls[params["requestId"]].cancel()
        elif number is not None:
            self.send(id=number, error={"code": -32601, "message": "Method not found"})

    async def call(self, number: Any, params: dict[str, Any]) -> None:
        name, given = params["name"], params.get("arguments") or {}
        if name not in self.tools:
            self.send(id=number, error={"code": -32602, "message": f"Unknown tool: {name}"})
            return
        known = getattr(self, name, None)
        result = await known(given, number, params) if known is not None else text(f"{name} it is")
        if result is not None:
            self.send(id=number, result=result)

    async def hello(self, given: dict[str, Any], *_: Any) -> Any:
        return text(f"Hello, {given['name']}!")

    async def add(self, given: dict[str, Any], *_: Any) -> Any:
        return {"content": [], "structuredContent": {"sum": given["a"] + given["b"]}}

    async def liar(self, *_: Any) -> Any:
        return {"content": [], "structuredContent": {"sum": "many"}}

    async def texts(self, given: dict[str, Any], *_: Any) -> Any:
        return {"content": [{"type": "text", "text": one} for one in given["texts"]]}

    async def picture(self, *_: Any) -> Any:
        return {"content": [{"type": "text", "text": "a pixel"}, {"type": "image", "data": PIXEL, "mimeType": "image/png"}]}

    async def fail(self, given: dict[str, Any], *_: Any) -> Any:
        return {"isError": True, "content": [{"type": "text", "text": one} for one in given["texts"]]}

    async def refuse(self, given: dict[str, Any], number: Any, *_: Any) -> Any:
        self.send(id=number, error={"code": given["code"], "message": given["message"], "data": {"seen": given}})

    async def surroundings(self, *_: Any) -> Any:
        told = {"environment": dict(os.environ), "folder": str(Path.cwd()), "pid": os.getpid(), "arguments": self.flags}
        return {"content": [], "structuredContent": told}

    async def die(self, given: dict[str, Any], *_: Any) -> Any:
        starts = Path(self.flags[self.flags.index("--starts") + 1]).read_text().splitlines()
        if len(starts) > given["times"]:
            return text(f"alive at start {len(starts)}")
        print(given["words"], file=sys.stderr, flush=True)
        os._exit(3)

    async def wait(self, given: dict[str, Any], *_: Any) -> Any:
        Path(given["began"]).touch()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            Path(given["cancelled"]).touch()
            raise

    async def meet(self, given: dict[str, Any], *_: Any) -> Any:
        self.meeting.append(asyncio.get_running_loop().create_future())
        mine = self.meeting[-1]
        if len(self.meeting) >= given["count"]:
            for one in self.meeting:
                one.set_result(None)
        await mine
        return text("met")

    async def advance(self, given: dict[str, Any], _: Any, params: dict[str, Any]) -> Any:
        told = {"progressToken": params["_meta"]["progressToken"], "progress": 1, "total": 4, "message": "a quarter"}
        self.send(method="notifications/progress", params=told)
        while not Path(given["until"]).exists():
            await asyncio.sleep(0.02)
        return text("there")

    async def grow(self, given: dict[str, Any], *_: Any) -> Any:
        self.tools[given["name"]] = tool(given["name"], "Came later.")
        self.send(method="notifications/tools/list_changed")
        return text("grown")

    async def shrink(self, given: dict[str, Any], *_: Any) -> Any:
        del self.tools[given["name"]]
        self.send(method="notifications/tools/list_changed")
        return text("shrunk")


def text(said: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": said}]}


def tell_start(flags: list[str]) -> None:
    if "--starts" in flags:
        with Path(flags[flags.index("--starts") + 1]).open("a") as starts:
            starts.write(f"{os.getpid()}\n")


if __name__ == "__main__":
    tell_start(sys.argv[1:])
    if "--chatty" in sys.argv:
        print("Welcome to the server!", flush=True)
    asyncio.run(Server(sys.argv[1:]).run())
