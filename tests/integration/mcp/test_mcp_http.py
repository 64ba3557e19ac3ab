"""An MCP server behind a URL as a plugin: streamable HTTP, newer and older protocol."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import Response
from tests.integration.mcp.rig import bare, call, deployed, failure, offered, step, until
from tests.integration.mcp.web import Modern, Older, free_port, served


async def test_hello_with_the_headers_of_the_plugin() -> None:
    modern = Modern("t0k3n")
    async with served(modern.app(), free_port()) as url:
        plugin = {"type": "mcp", "url": url, "headers": {"Authorization": "Bearer ${TOKEN}", "X-Team": "search"}}
        async with deployed({"web": plugin}, environment={"TOKEN": "t0k3n"}) as client:
            assert await call(client, "/web/hello", {"name": "Ann"}) == {"greeting": "Hello, Ann!"}
            assert set(await offered(client, "web")) == {"/web/hello", "/web/wait", "/web/grow"}
    assert {headers["x-team"] for headers in modern.headers} == {"search"}


async def test_a_refusal_keeps_its_status_and_text() -> None:
    modern = Modern("t0k3n")
    async with served(modern.app(), free_port()) as url, deployed({"web": {"type": "mcp", "url": url}}) as client:
        problem = await failure(client, "/web/hello", {"name": "Ann"})
    assert problem.error_code == "UNREACHABLE"
    assert f"the MCP server web ({url}) cannot be reached: the server answered 401 Unauthorized: who are you?" in problem.error_message


async def test_calls_run_side_by_side_and_a_cancel_reaches_the_tool() -> None:
    modern = Modern()
    async with served(modern.app(), free_port()) as url, deployed({"web": {"type": "mcp", "url": url}}) as client:
        handle = await client.submit(step("/web/wait"), [None] * 5, max_concurrency=0)
        await until("all calls", lambda: modern.events.count("began") == 5)
        assert await call(client, "/web/hello", {"name": "Ann"}) == {"greeting": "Hello, Ann!"}
        await handle.cancel()
        await until("all cancels", lambda: modern.events.count("cancelled") == 5)


async def test_tools_that_come_are_noticed() -> None:
    async with served(Modern().app(), free_port()) as url, deployed({"web": {"type": "mcp", "url": url}}) as client:
        await call(client, "/web/grow")
        async with asyncio.timeout(10):
            while "/web/late" not in await offered(client, "web"):
                await asyncio.sleep(0.02)
        assert await call(client, "/web/late") == {"result": "late it is"}


async def test_a_server_that_comes_later_and_goes_away_for_a_while() -> None:
    port, older = free_port(), Older()
    plugin = {"type": "mcp", "url": f"http://127.0.0.1:{port}/mcp"}
    retry = {"transportMaxRetries": 100, "backoff": {"type": "constant", "initial": "50ms", "jitter": 0}}
    async with deployed({"web": plugin, "fs": bare()}, retry=retry) as client:
        early = await client.submit(step("/web/hello", {"name": "Ann"}), [None])
        assert await call(client, "/fs/hello", {"name": "Bob"}) == "Hello, Bob!"
        async with served(older.app, port):
            assert await early.result(20) == "Hello, Ann!"
        late = await client.submit(step("/web/hello", {"name": "Eve"}), [None])
        older.sessions.clear()  # as after a restart
        async with served(older.app, port):
            assert await late.result(20) == "Hello, Eve!"
    assert older.calls == 2


async def test_a_forgotten_session_is_opened_again() -> None:
    older = Older()
    async with served(older.app, free_port()) as url, deployed({"web": {"type": "mcp", "url": url}}) as client:
        await call(client, "/web/hello", {"name": "Ann"})
        older.sessions.clear()
        assert await call(client, "/web/hello", {"name": "Bob"}) == "Hello, Bob!"


@pytest.mark.parametrize(
    ("status", "code", "message", "calls"),
    [
        (503, "UNREACHABLE", "the server answered 503 Service Unavailable: later", 4),
        (429, "UNREACHABLE", "the server answered 429 Too Many Requests: later", 4),
        (500, "COMPONENT_FAILED", "the server answered 500 Internal Server Error: later", 1),
    ],
)
async def test_what_may_pass_is_retried(status: int, code: str, message: str, calls: int) -> None:
    older = Older()
    older.refuse = [Response("later", status) for _ in range(10)]
    async with served(older.app, free_port()) as url, deployed({"web": {"type": "mcp", "url": url}}) as client:
        problem = await failure(client, "/web/hello", {"name": "Ann"})
        assert (problem.error_code, problem.error_message) == (code, message)
        assert older.calls == calls
        older.refuse.clear()
        assert await call(client, "/web/hello", {"name": "Ann"}) == "Hello, Ann!"
