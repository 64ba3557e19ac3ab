"""A history as a JSON file: to be kept beside tests, read by people, and replayed with the code of today.

Invariant: what is written and read again replays as it did. Values stand in it as JSON, not as text within JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from stepmesh_broker.protocol.histories import Began, CancelAsked, Issued, Kind, Record, Settled, TakenOver, Tried, UpdateAsked
from stepmesh_broker.protocol.messages import Failure

_KINDS: dict[str, type[Record]] = {
    "began": Began,
    "issued": Issued,
    "settled": Settled,
    "tried": Tried,
    "cancel": CancelAsked,
    "update": UpdateAsked,
    "taken_over": TakenOver,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_BYTES = ("arguments", "value", "options")


class History(msgspec.Struct, kw_only=True):
    """Of one run. `version`: of the code that it began with. `input` is JSON text."""

    run: str
    workflow: str
    version: str
    started_ms: int
    input: msgspec.Raw
    records: list[dict[str, Any]]

    def read(self) -> list[Record]:
        """As a body is given them."""
        return [_read(record) for record in self.records]


def history(run: str, workflow: str, version: str, started_ms: int, input: bytes, records: Sequence[Record]) -> History:
    """Of a run's records."""
    written = [_written(record) for record in records]
    return History(run=run, workflow=workflow, version=version, started_ms=started_ms, input=msgspec.Raw(input), records=written)


def dumps(history: History) -> str:
    """As JSON text, indented."""
    return msgspec.json.format(msgspec.json.encode(history), indent=2).decode()


def loads(text: str | bytes) -> History:
    """What `dumps` wrote. Raises `msgspec.ValidationError`."""
    return msgspec.json.decode(text, type=History)


def _written(record: Record) -> dict[str, Any]:
    fields: dict[str, Any] = {"record": _NAMES[type(record)]}
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if name in _BYTES:
            fields[name] = msgspec.json.decode(value) if value else None
        else:
            fields[name] = msgspec.to_builtins(value)
    return fields


def _read(fields: dict[str, Any]) -> Record:
    given = {name: value for name, value in fields.items() if name != "record"}
    for name in _BYTES:
        if name in given:
            given[name] = b"" if name == "options" and given[name] is None else msgspec.json.encode(given[name])
    if given.get("failure") is not None:
        given["failure"] = msgspec.convert(given["failure"], Failure)
    kind = _KINDS[fields["record"]]
    if kind is Issued:
        given["kind"] = Kind(given["kind"])
    return kind(**given)
