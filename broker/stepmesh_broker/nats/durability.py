"""Asks a NATS server what it would lose: how often it flushes, how many replicas the streams of a namespace have, what it takes.

Only asks. A client's connection does not tell how often the server flushes; its monitoring port and the configuration of an embedded
server do.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats
from nats.errors import Error as NatsError
from nats.js.api import StorageType, StreamInfo

from stepmesh_broker.durability import NOT_VISIBLE, Finding
from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.nats.release import OLDEST, is_too_old
from stepmesh_broker.nats.settings import NatsSettings
from stepmesh_broker.protocol.records import Topic

DEFAULT_SYNC_S = 120.0
"""The server's own `sync_interval`."""
_SMALL_PAYLOAD = 4 << 20
_TIMEOUT_S = 3.0


async def examine(settings: NatsSettings, *, monitor: str | None = None, config: Path | None = None) -> list[Finding]:
    """`monitor`: the server's monitoring URL; `config`: the file of an embedded one. Raises `BrokerError`."""
    return [await asyncio.to_thread(_sync, monitor, config), *[finding async for finding in _by_connection(settings)]]


def _sync(monitor: str | None, config: Path | None) -> Finding:
    name = "nats sync_interval"
    if config is not None and config.is_file():
        return _flushes(name, "always" if "sync_interval: always" in config.read_text() else DEFAULT_SYNC_S)
    if monitor is None:
        return Finding(
            name,
            NOT_VISIBLE,
            f"a client is not told; if it is the server's default of {DEFAULT_SYNC_S:g} s, power loss takes that much of a "
            "stream without replicas elsewhere",
            "name the server's monitoring port: --monitor http://HOST:8222",
        )
    try:
        with urllib.request.urlopen(f"{monitor.rstrip('/')}/varz", timeout=_TIMEOUT_S) as answer:
            said: dict[str, Any] = json.load(answer)["jetstream"]["config"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        return Finding(name, NOT_VISIBLE, f"{monitor} does not answer as a NATS server: {problem}", "check --monitor")
    return _flushes(name, "always" if said.get("sync_always") else said.get("sync_interval", DEFAULT_SYNC_S * 1e9) / 1e9)


def _flushes(name: str, every: str | float) -> Finding:
    if every == "always":
        return Finding(name, "always")
    lost = f"power loss takes the last {every:g} s of each stream, unless another machine has a replica with its power on"
    return Finding(name, f"{every:g} s", lost, "sync_interval: always in the server's jetstream block, or replicas on other machines")


async def _by_connection(settings: NatsSettings) -> AsyncIterator[Finding]:
    servers = [settings.url] if isinstance(settings.url, str) else list(settings.url)
    try:
        connection = await nats.connect(
            servers=servers, user=settings.user, password=settings.password, token=settings.token, tls=settings.tls,
            user_credentials=settings.credentials_file, allow_reconnect=False, connect_timeout=_TIMEOUT_S, max_reconnect_attempts=1,
            error_cb=_quiet,
        )  # fmt: skip
    except (NatsError, OSError, TimeoutError) as problem:
        raise BrokerUnavailable(
            f"no NATS server answers: {problem or type(problem).__name__}", hint="is it up, and is the URL right?"
        ) from problem
    try:
        yield _release(str(connection.connected_server_version).removeprefix("<nats server v").removesuffix(">"))
        yield _payload(connection.max_payload)
        for finding in _streams(await connection.jetstream().streams_info(), settings):
            yield finding
    except (NatsError, TimeoutError) as problem:
        raise BrokerError(f"the NATS server does not tell of its streams: {problem}", hint="is JetStream on, and permitted?") from problem
    finally:
        await connection.close()


async def _quiet(problem: Exception) -> None:
    """What goes wrong is raised where it is asked."""


def _release(version: str) -> Finding:
    old = is_too_old(version)
    newer = ".".join(map(str, OLDEST))
    return Finding("nats version", version, "nothing: it is refused" if old else "", f"nats-server {newer} or newer" if old else "")


def _payload(size: int) -> Finding:
    means = "larger tasks and results are refused: nothing is lost" if size < _SMALL_PAYLOAD else ""
    return Finding("nats max_payload", f"{size:,} bytes", means, f"max_payload: {_SMALL_PAYLOAD} in the server's file" if means else "")


def _streams(streams: list[StreamInfo], settings: NatsSettings) -> Iterator[Finding]:
    prefix = f"stepmesh_{settings.namespace}_"
    ours = [stream for stream in streams if (stream.config.name or "").startswith(prefix)]
    if not ours:
        yield Finding("nats streams", f"none of namespace {settings.namespace} yet", "", "")
    for stream in sorted(ours, key=lambda one: one.config.name or ""):
        yield _stream((stream.config.name or "").removeprefix(prefix), stream)


def _stream(kind: str, stream: StreamInfo) -> Finding:
    replicas, storage = stream.config.num_replicas or 1, stream.config.storage
    name = f"nats stream {kind}"
    value = f"{replicas} replica{'s' if replicas > 1 else ''}, {'memory' if storage == StorageType.MEMORY else 'file'}"
    if kind == "tasks":
        return Finding(name, value)  # the journal sends them again
    if storage == StorageType.MEMORY:
        return Finding(name, value, "a restart of the server takes all of it", "make it anew with storage file")
    if replicas == 1:
        holds = "every run" if kind.startswith("journal") else "results that were not journaled run again, dead letters are gone"
        holds = "records that no orchestrator has read yet" if kind in {topic.value for topic in Topic} else holds
        lost = f"the loss of its machine or disk takes all of it: {holds}"
        return Finding(
            name, value, lost, "3 servers, and ?replicas=3 in the URL before the stream is made; `nats stream edit` for this one"
        )
    return Finding(name, value)
