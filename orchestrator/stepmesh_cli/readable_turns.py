"""Journal frames as lines of JSON that people and `jq` can read. Pure.

Payloads (JSON text as bytes) are put in as they are, so that numbers keep their digits; bytes that are no JSON become base64.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import msgspec

from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.events import Event, Turn, decode_turn
from stepmesh_orchestrator.journal.inspect import DumpedFrame


def decode(payload: bytes) -> Turn | str:
    """The turn, or why the payload is none."""
    try:
        return decode_turn(payload)
    except (msgspec.MsgspecError, ValueError) as problem:
        return f"not a turn of this version: {problem}"


def line(partition: Partition, frame: DumpedFrame[Turn | str], run: str | None = None) -> bytes | None:
    """One frame; with `run` only its events of that run, None when there is none."""
    told: dict[str, Any] = {"partition": partition, "sequence": frame.sequence, "epoch": frame.epoch, "bytes": frame.size}
    turn = frame.content
    if isinstance(turn, str):
        return None if run else msgspec.json.encode({**told, "error": turn})
    events = [_event(event) for event in _of_run(turn.events, run)]
    if run and not events:
        return None
    at = datetime.fromtimestamp(turn.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return msgspec.json.encode({**told, "at": at, "inbox": turn.inbox, "confirmed": turn.confirmed, "events": events})


def _of_run(events: Iterable[Event], run: str | None) -> Iterable[Event]:
    return events if run is None else (event for event in events if event.run == run)


def _event(event: Event) -> dict[str, Any]:
    return {"event": type(event).__name__, **_fields(event)}


def _fields(struct: msgspec.Struct) -> dict[str, Any]:
    """What is not None, in order."""
    values = ((name, getattr(struct, name)) for name in struct.__struct_fields__)
    return {name: _readable(value) for name, value in values if value is not None}


def _readable(value: Any) -> Any:
    if isinstance(value, bytes):
        return _payload(value)
    if isinstance(value, Failure):
        return {**_fields(value), "code": _code(value.code)}
    if isinstance(value, msgspec.Struct):
        return _fields(value)
    if isinstance(value, list | tuple):
        return [_readable(one) for one in value]
    return value.name if isinstance(value, Enum) else value


def _payload(data: bytes) -> Any:
    try:
        data.decode()
        msgspec.json.decode(data)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
        return {"base64": base64.b64encode(data).decode()}
    return msgspec.Raw(data)


def _code(code: int) -> str | int:
    try:
        return ErrorCode(code).name
    except ValueError:
        return code
