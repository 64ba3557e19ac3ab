"""HTTP as tests speak it: through a client, or byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
from tests.unit.gateway.door import Door

RUN = "01900000-0000-7000-8000-000000000001"
"""A run that is not there."""


class Web:
    """Requests to `/api/v1`, by their paths below it."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def __call__(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        """The decoded body of an answer that has `status`."""
        answer = await self.http.request(method, f"/api/v1{path}", **options)
        assert answer.status_code == status, answer.text
        return msgspec.json.decode(answer.content)

    async def refused(self, method: str, path: str, status: int, reason: str, **options: Any) -> dict[str, Any]:
        """The error of an answer, which has `status`, a gRPC name for it, and the code `reason`."""
        answer = await self.http.request(method, f"/api/v1{path}", **options)
        return error(answer, status, reason)

    async def store(self, flow: dict[str, Any]) -> str:
        """The id of a flow."""
        stored = await self("POST", "/flows", json={"flow": flow})
        assert stored["stored"], stored
        return str(stored["flowId"])

    async def submit(self, flow: dict[str, Any], *inputs: Any, **fields: Any) -> Any:
        """POST /runs."""
        return await self("POST", "/runs", json={"flowId": await self.store(flow), "input": list(inputs), **fields})

    async def run(self, flow: dict[str, Any], *inputs: Any, **fields: Any) -> Any:
        """The same, until it ended."""
        return await self.submit(flow, *inputs, wait=True, **fields)


def error(answer: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """What an answer refuses with; its shape is checked."""
    assert answer.status_code == status, answer.text
    if answer.request.url.path.startswith(("/v1/", "/notify/", "/trigger/")):
        return problem(answer, status, reason)
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) <= {"code", "message", "status", "reason", "hint", "data"}
    assert (found["code"], found["reason"]) == (status, reason)
    assert found["message"]
    assert found["status"] == found["status"].upper()
    return found


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """What an answer of `/v1` refuses with; its shape is checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert set(found) <= {"title", "status", "code", "detail", "hint", "docs", "run_id"}
    assert (found["status"], found["code"]) == (status, code)
    assert found["title"]
    assert found["detail"]
    return found


def refusal(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """What an answer of either surface refuses with, in the form of that surface."""
    said = answer.json()
    if answer.request.url.path.startswith(("/v1/", "/notify/", "/trigger/")):
        return problem(answer, status, code or said["code"])
    return error(answer, status, code or said["error"]["reason"])


@asynccontextmanager
async def web(door: Door) -> AsyncIterator[Web]:
    """A client of `door`."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{door.gateway.port}", timeout=60) as http:
        yield Web(http)


@asynccontextmanager
async def connected(door: Door) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the port, byte for byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.gateway.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def said(door: Door, data: bytes, timeout_s: float = 20.0) -> bytes:
    """All that is answered to `data` until the connection is closed."""
    async with connected(door) as (reader, writer), asyncio.timeout(timeout_s):
        writer.write(data)
        return await reader.read()
