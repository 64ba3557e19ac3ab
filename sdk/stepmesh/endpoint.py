"""Where the broker is: an argument, `STEPMESH_URL`, or the embedded broker of a data folder at or above the working folder."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from stepmesh.errors import EndpointNotFound
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Namespace

VARIABLE = "STEPMESH_URL"
FILE = Path(".stepmesh") / "nats" / "endpoint.json"
"""Written by the embedded broker while it runs: a JSON object with `url`."""


def find(url: str | None = None, start: Path | None = None) -> str:
    """The broker's URL. Raises `EndpointNotFound` that says where it looked."""
    if url:
        return url
    if given := os.environ.get(VARIABLE):
        return given
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            return _read(folder / FILE)
    raise EndpointNotFound(
        f"no broker: {VARIABLE} is not set and no {FILE} lies in {here} or above it",
        hint="start one with `stepmesh up`, or set STEPMESH_URL=nats://host:4222",
    )


def _read(path: Path) -> str:
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as problem:
        raise EndpointNotFound(f"cannot read {path}: {problem}", hint="start the broker again with `stepmesh up`") from problem
    url = found.get("url") if isinstance(found, dict) else None
    if not isinstance(url, str):
        raise EndpointNotFound(f"{path} names no `url`", hint="start the broker again with `stepmesh up`")
    return url


def broker(url: str, namespace: str) -> Broker:
    """A connection to `url`, not opened yet."""
    from stepmesh_broker.nats import NatsBroker, NatsSettings  # late: a program that brings its own broker does not pay for this import

    return NatsBroker(NatsSettings(url=url, namespace=Namespace(namespace)))
