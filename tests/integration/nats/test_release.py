"""A nats-server that is too old is refused when it is connected to, by a broker as by a journal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.nats import NatsBroker, NatsSettings, durability
from stepmesh_broker.nats.release import check_release, is_too_old
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_orchestrator.journal.jetstream import JetStreamJournal


@asynccontextmanager
async def server_of(version: str) -> AsyncIterator[str]:
    """The address of one that greets as this version and answers pings, and no more."""
    told = {"server_id": "x", "version": version, "proto": 1, "max_payload": 1 << 20, "headers": True, "jetstream": True}
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO %b\r\n" % json.dumps(told).encode())
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()
        await writer.wait_closed()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.ensure_future(talk(reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*talks), 10)
        await server.wait_closed()


async def test_a_broker_refuses_it_and_names_both_versions() -> None:
    async with server_of("2.10.29") as url:
        broker = NatsBroker(NatsSettings.parse(url, Namespace("n")))
        with pytest.raises(BrokerError, match=r"is of version 2\.10\.29; Stepmesh needs 2\.11 or newer") as refused:
            await broker.connect()
        await broker.close()
    assert refused.value.code == "SM-3042"


async def test_a_journal_refuses_it() -> None:
    async with server_of("2.10.0") as url:
        with pytest.raises(BrokerError) as refused:
            await JetStreamJournal(url, Namespace("n")).open()
    assert refused.value.code == "SM-3042"


@pytest.mark.parametrize(
    ("version", "old"),
    [("2.10.29", True), ("2.11.0", False), ("v2.11.0-RC.3", False), ("2.9.25", True), ("3.0.0", False), ("1.4.1", True), ("dev", False)],
)
def test_one_under_and_one_over(version: str, old: bool) -> None:
    assert is_too_old(version) is old
    if not old:
        check_release(version, "here")


async def test_doctor_names_the_version(nats_url: str) -> None:
    (found,) = [one for one in await durability.examine(NatsSettings.parse(nats_url, Namespace("n"))) if one.name == "nats version"]
    assert (found.value[0].isdigit(), found.means) == (True, "")
