"""/openai against a small HTTP server on the loopback interface."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from stepmesh import ComponentError, ErrorCode
from stepmesh.testing import call
from stepmesh_components.openai import openai

MESSAGES = [{"role": "user", "content": "hi"}]
GOOD = {"choices": [{"message": {"role": "assistant", "content": "hello"}}], "usage": {"total_tokens": 3}}


class Stub:
    """Answers every request alike and keeps the last one. `url` is its base."""

    def __init__(self, status: int, body: str, headers: dict[str, str]) -> None:
        self.status, self.body, self.headers = status, body, headers
        self.url = ""
        self.head = ""
        self.request: Any = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line.split(":")[1]) for line in self.head.splitlines() if line.lower().startswith("content-length"))
        self.request = json.loads(await reader.readexactly(length))
        told = {"content-length": str(len(self.body.encode())), "connection": "close", **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        writer.write(f"HTTP/1.1 {self.status} Said\r\n{lines}\r\n{self.body}".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def stub(status: int = 200, body: Any = GOOD, **headers: str) -> AsyncIterator[Stub]:
    server = Stub(status, body if isinstance(body, str) else json.dumps(body), {k.replace("_", "-"): v for k, v in headers.items()})
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        yield server


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


async def failure(server: Stub, **more: Any) -> ComponentError:
    with pytest.raises(ComponentError) as raised:
        await call(openai, {"messages": MESSAGES, "base_url": server.url, **more})
    assert "top-secret" not in str(raised.value) + json.dumps(raised.value.data)
    return raised.value


async def test_what_is_sent_and_what_comes_back() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with stub() as server:
        told = await call(
            openai,
            {
                "messages": MESSAGES, "base_url": server.url + "/", "model": "m", "max_tokens": 5, "temperature": 0.0,
                "response_format": {"type": "json_object"}, "tools": tools, "api_key": "top-secret",
            },
        )  # fmt: skip
    assert told == {"response": "hello", "usage": {"total_tokens": 3}, "tool_calls": None}
    assert server.head.startswith("POST /v1/chat/completions ")
    assert "authorization: bearer top-secret" in server.head.lower()
    assert server.request == {
        "model": "m", "messages": MESSAGES, "max_tokens": 5, "temperature": 0.0, "response_format": {"type": "json_object"}, "tools": tools,
    }  # fmt: skip


async def test_key_and_server_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stub() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "from-env")
        await call(openai, {"messages": MESSAGES})
    assert "authorization: bearer from-env" in server.head.lower()
    assert set(server.request) == {"model", "messages"}


async def test_a_local_server_needs_no_key() -> None:
    async with stub() as server:
        await call(openai, {"messages": MESSAGES, "base_url": server.url})
    assert "authorization" not in server.head.lower()


async def test_no_key_for_the_default_server() -> None:
    with pytest.raises(ComponentError, match="OPENAI_API_KEY") as raised:
        await call(openai, {"messages": MESSAGES})
    assert raised.value.code is ErrorCode.INVALID_INPUT


async def test_tool_calls_without_text() -> None:
    calls = [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]
    async with stub(200, {"choices": [{"message": {"content": None, "tool_calls": calls}}]}) as server:
        told = await call(openai, {"messages": MESSAGES, "base_url": server.url})
    assert told == {"response": "", "usage": None, "tool_calls": calls}


@pytest.mark.parametrize("status", [429, 500, 503, 529])
async def test_what_may_pass_is_unavailable_with_the_delay_it_names(status: int) -> None:
    async with stub(status, {"error": "busy"}, retry_after="7") as server:
        problem = await failure(server, api_key="top-secret")
    assert (problem.code, problem.retry_after_s) == (ErrorCode.RESOURCE_UNAVAILABLE, 7)
    assert problem.data == {"status": status, "body": {"error": "busy"}}


@pytest.mark.parametrize(
    ("header", "least", "most"), [("0", 0, 0), ("-5", 0, 0), ("1e9", 86400, 86400), ("soon", None, None), ("nan", None, None)]
)
async def test_retry_after_is_bounded(header: str, least: float | None, most: float | None) -> None:
    async with stub(429, "slow down", retry_after=header) as server:
        problem = await failure(server)
    assert problem.code is ErrorCode.RESOURCE_UNAVAILABLE
    assert problem.retry_after_s == least == most


async def test_retry_after_as_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=1000), usegmt=True)
    async with stub(503, "later", retry_after=date) as server:
        problem = await failure(server)
    assert problem.retry_after_s is not None
    assert 900 < problem.retry_after_s <= 1000


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_other_refusals_fail_with_the_body(status: int) -> None:
    async with stub(status, {"error": {"message": "no such model"}}) as server:
        problem = await failure(server, api_key="top-secret")
    assert problem.code is ErrorCode.COMPONENT_FAILED
    assert str(status) in str(problem)
    assert problem.data == {"status": status, "body": {"error": {"message": "no such model"}}}


@pytest.mark.parametrize("body", ["hello", "{}", '{"choices": []}', '{"choices": [{"message": null}]}', "[]"])
async def test_an_answer_that_is_no_completion(body: str) -> None:
    async with stub(200, body) as server:
        problem = await failure(server)
    assert problem.code is ErrorCode.COMPONENT_FAILED
    assert "not a chat completion" in str(problem)


async def test_nobody_listens() -> None:
    async with stub() as server:
        pass
    problem = await failure(server)
    assert problem.code is ErrorCode.RESOURCE_UNAVAILABLE


@pytest.mark.parametrize("input", [{"base_url": "ftp://x"}, {"messages": "hi"}, {"modle": "m"}])
async def test_bad_input(input: dict[str, Any]) -> None:
    with pytest.raises(ComponentError) as raised:
        await call(openai, {"messages": MESSAGES, "base_url": "http://127.0.0.1:9", **input})
    assert raised.value.code is ErrorCode.INVALID_INPUT
