"""Every limit of HTTP, one under and one over: the refusal names the limit and how to raise it, and others are served on."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import msgspec
import pytest
from tests.unit.gateway.door import Door, opened, until
from tests.unit.gateway.web import connected, error, said, web

from stepmesh_gateway.http import protocol
from stepmesh_gateway.settings import Limits

HEAD = b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n"


async def alive(door: Door) -> None:
    async with web(door) as api:
        assert (await api("GET", "/health"))["status"] == "healthy"


def refusal(answer: bytes) -> dict[str, Any]:
    """The error of an answer that ends the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert int(re.findall(rb"content-length: (\d+)", head)[0]) == len(body)
    found: dict[str, Any] = msgspec.json.decode(body)["error"]
    assert head.startswith(b"HTTP/1.1 %d " % found["code"])
    return found


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("over", [0, 1])
async def test_a_body(over: int, chunked: bool) -> None:
    async with opened(Limits(message_bytes=5000), workers=0) as door, web(door) as api:
        body = b'{"data":"%s"}' % (b"x" * (5000 + over - 11))
        assert len(body) == 5000 + over

        async def pieces() -> Any:
            for start in range(0, len(body), 999):
                yield body[start : start + 999]

        content: Any = pieces() if chunked else body
        answer = await api.http.post("/api/v1/blobs", content=content, headers={"Content-Type": "application/json"})
        if not over:
            assert answer.status_code == 200
        else:
            found = error(answer, 413, "SM-7003")
            assert found["status"] == "RESOURCE_EXHAUSTED"
            assert "5,001 bytes; limits.message_bytes is 5,000" in found["message"]
            assert "raise limits.message_bytes" in found["hint"]
        await alive(door)


async def test_a_payload_in_a_body_that_is_not_too_large() -> None:
    async with opened(Limits(payload_bytes=1000), workers=0) as door, web(door) as api:
        flow = await api.store({"name": "f", "steps": [], "output": None})
        assert await api("POST", "/runs", json={"flowId": flow, "input": [1, "x" * 998]})
        found = await api.refused("POST", "/runs", 413, "SM-7003", json={"flowId": flow, "input": [1, "x" * 999]})
        assert "input[1] has 1,001 bytes; limits.payload_bytes is 1,000" in found["message"]
        found = await api.refused("POST", "/blobs", 413, "SM-7003", json={"data": "x" * 999})
        assert "the blob has 1,001 bytes" in found["message"]


async def test_a_body_that_is_announced_too_large_is_not_read() -> None:
    async with opened(Limits(message_bytes=5000), workers=0) as door, connected(door) as (reader, writer):
        writer.write(b"POST /api/v1/blobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999999\r\n\r\n")
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 413 ")
        await alive(door)


async def test_the_rest_of_a_refused_body_is_not_awaited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_S", 0.2)
    async with opened(Limits(message_bytes=5000), workers=0) as door, connected(door) as (reader, writer):
        writer.write(b"POST /api/v1/blobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999999\r\n\r\n")
        await reader.readuntil(b"}}")
        writer.write(b"x" * 1000)
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_client_may_wait_for_leave_to_send_its_body() -> None:
    async with opened(Limits(message_bytes=5000), workers=0) as door:
        head = (
            b"POST /api/v1/blobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n"
        )
        async with connected(door) as (reader, writer):
            writer.write(head % 10)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            writer.write(b'{"data":1}')
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
        async with connected(door) as (reader, writer):
            writer.write(head % 5001)
            assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 413 "), "before anything is sent"


@pytest.mark.parametrize("over", [0, 1])
async def test_a_head_that_comes_at_once(over: int) -> None:
    async with opened(Limits(header_bytes=2000), workers=0) as door:
        sent = len(b"GET/api/v1/health") + len(b"hostx") + 4 + len(b"x-pad") + 4 + len(b"connectionclose") + 4
        answer = await said(
            door, HEAD.replace(b"Host", b"X-Pad: " + b"p" * (2000 + over - sent) + b"\r\nConnection: close\r\nHost") + b"\r\n"
        )
        if not over:
            assert answer.startswith(b"HTTP/1.1 200 ")
            return
        found = refusal(answer)
        assert (found["code"], found["reason"], found["status"]) == (431, "SM-7106", "RESOURCE_EXHAUSTED")
        assert "larger than 2000 bytes" in found["message"]
        assert "raise limits.header_bytes" in found["hint"]
        await alive(door)


@pytest.mark.parametrize("part", [b"X-Pad: ", b"GET /", b"X-"])
async def test_a_head_that_never_ends(part: bytes) -> None:
    async with opened(Limits(header_bytes=2000), workers=0) as door, connected(door) as (reader, writer):
        writer.write(part if part.startswith(b"GET") else HEAD + part)
        for _ in range(100):
            writer.write(b"p" * 100)
            await asyncio.sleep(0)
        found = refusal(await asyncio.wait_for(reader.read(), 10))
        assert found["reason"] == "SM-7106"
        await alive(door)


async def test_small_heads_behind_large_bodies_are_small() -> None:
    """A head that shares its packet with the end of a body is not taken for a large one."""
    async with opened(Limits(header_bytes=500), workers=0) as door, connected(door) as (reader, writer):
        body = b'{"data":"%s"}' % (b"x" * 3000)
        post = b"POST /api/v1/blobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write((post + body) * 3 + HEAD[:30])
        for _ in range(3):
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
        writer.write(HEAD[30:] + b"\r\n")
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"G", b"GET /api", HEAD, HEAD + b"X-Slow"])
async def test_a_head_that_dawdles(sent: bytes) -> None:
    async with opened(Limits(arrival_s=0.3), workers=0) as door:
        found = refusal(await said(door, sent))
        assert (found["code"], found["reason"], found["status"]) == (408, "SM-7107", "DEADLINE_EXCEEDED")
        assert "the head of the request did not come within 0.3 s" in found["message"]
        assert "raise limits.arrival_s" in found["hint"]


async def test_a_head_that_trickles_gains_no_time() -> None:
    async with opened(Limits(arrival_s=0.5), workers=0) as door, connected(door) as (reader, writer):
        answered = asyncio.ensure_future(reader.read())
        began = asyncio.get_running_loop().time()
        for byte in HEAD * 10:
            writer.write(bytes([byte]))
            if (await asyncio.wait((answered,), timeout=0.05))[0]:
                break
        assert refusal(await answered)["code"] == 408
        assert asyncio.get_running_loop().time() - began < 3


async def test_a_second_head_that_dawdles() -> None:
    async with opened(Limits(arrival_s=0.3), workers=0) as door, connected(door) as (reader, writer):
        writer.write(HEAD + b"\r\n")
        await reader.readuntil(b"}}")
        writer.write(b"GET /slow")
        assert refusal(await asyncio.wait_for(reader.read(), 10))["code"] == 408


async def test_a_body_that_dawdles() -> None:
    async with opened(Limits(arrival_s=0.3), workers=0) as door:
        post = b"POST /api/v1/blobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        found = refusal(await said(door, post + b'{"data"'))
        assert (found["code"], found["reason"]) == (408, "SM-7107")
        assert "the body of the request" in found["message"]


async def test_connections_that_ask_nothing_are_closed() -> None:
    async with opened(Limits(idle_s=0.3, arrival_s=0.3), workers=0) as door:
        assert await said(door, b"") == b""
        async with connected(door) as (reader, writer):
            writer.write(HEAD + b"\r\n")
            await reader.readuntil(b"}}")
            assert await asyncio.wait_for(reader.read(), 10) == b""
        async with connected(door) as (reader, writer):
            writer.write(HEAD + b"\r\n")
            await reader.readuntil(b"}}")
            writer.write(b"\r\n")
            assert await asyncio.wait_for(reader.read(), 10) == b"", "an empty line is no request"


async def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    async with opened(Limits(idle_s=0.3), workers=0) as door, web(door) as api:
        blob = (await api("POST", "/blobs", json={"data": "x" * 6_000_000}))["blobId"]
        async with connected(door) as (reader, writer):
            transport: Any = writer.transport
            writer.write(b"GET /api/v1/blobs/%s HTTP/1.1\r\nHost: x\r\n\r\n" % blob.encode())
            await reader.readuntil(b"xxxx")
            transport.pause_reading()
            connections = door.gateway._http.state.connections  # pyright: ignore[reportPrivateUsage]
            await until(lambda: len(connections) <= 1)
        await alive(door)


@pytest.mark.parametrize("over", [0, 1])
async def test_connections(over: int) -> None:
    async with opened(Limits(connections=4), workers=0) as door:
        held = [await asyncio.open_connection("127.0.0.1", door.gateway.port) for _ in range(3 + over)]
        await until(lambda: door.gateway._port.open == 3 + over)  # pyright: ignore[reportPrivateUsage]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{door.gateway.port}") as http:
            answer = await http.get("/health")
        if not over:
            assert answer.status_code == 200
        else:
            found = error(answer, 503, "SM-7109")
            assert found["status"] == "UNAVAILABLE"
            assert "4 connections are open" in found["message"]
            assert "raise limits.connections" in found["hint"]
            assert answer.headers["retry-after"] == "1"
        for _, writer in held:
            writer.close()
        await until(lambda: door.gateway._port.open == 0)  # pyright: ignore[reportPrivateUsage]
        await alive(door)


async def test_a_crowd_of_idle_connections_does_not_grow() -> None:
    """A thousand that say nothing, of which the port keeps two hundred; then the door is open as before."""
    async with opened(Limits(connections=200, arrival_s=1.0), workers=0) as door:
        port = door.gateway._port  # pyright: ignore[reportPrivateUsage]
        crowd = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", door.gateway.port) for _ in range(1000)))
        await until(lambda: port.full)
        told = await asyncio.gather(*(reader.read() for reader, _ in crowd), return_exceptions=True)
        assert port.open <= 200
        assert sum(isinstance(one, bytes) and b" 503 " in one for one in told) >= 700
        for _, writer in crowd:
            writer.close()
        await until(lambda: port.open == 0)
        await alive(door)
