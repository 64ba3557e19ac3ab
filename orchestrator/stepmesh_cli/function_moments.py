"""A durable function at a place of its history: each command that its body issued, what came of it by then, and where in the code it was.

Invariant: what is told follows from the records alone; no code of the workflow is run, so it need not be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepmesh_broker.protocol.histories import NOTES, Began, CancelAsked, Issued, Kind, Record, Settled, TakenOver, Tried, UpdateAsked
from stepmesh_cli.tables import raw
from stepmesh_orchestrator.core.failures import error_json
from stepmesh_orchestrator.core.functions import Function

_SHOWN = frozenset({Kind.EFFECT, Kind.ATTRIBUTE, Kind.STREAM, Kind.TAG, Kind.REPLY})
"""Notes whose value is what they are about."""


@dataclass(slots=True)
class Told:
    """What the journal told of a function. `abandoned`: by command, how many records there were when the body gave it up."""

    function: Function
    abandoned: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def records(self) -> Sequence[Record]:
        """Its history."""
        return self.function.records


@dataclass(slots=True)
class Command:
    """`record`: its number in the history, from 1. `state`: noted, waiting, settled, failed, or given up. `tries`: that failed so far."""

    record: int
    id: str
    kind: str
    name: str
    where: str
    at_ms: int
    state: str
    value: bytes | None = None
    tries: int = 0


def commands_of(told: Told, upto: int) -> list[Command]:
    """Those that were issued by the end of the first `upto` records, in their order."""
    found: dict[str, Command] = {}
    for number, record in enumerate(told.records[:upto], 1):
        if isinstance(record, Issued):
            found[record.id] = _issued(number, record)
        elif isinstance(record, Tried) and record.id in found:
            found[record.id].tries += 1
        elif isinstance(record, Settled) and record.id in found:
            command = found[record.id]
            command.state = "settled" if record.failure is None else "failed"
            command.value = record.value if record.failure is None else error_json(record.failure)
    for id, known in told.abandoned.items():
        if known <= upto and id in found and found[id].state == "waiting":
            found[id].state = "given up"
    return list(found.values())


def _issued(number: int, record: Issued) -> Command:
    is_note = record.kind in NOTES
    value = record.arguments if record.kind in _SHOWN else None
    return Command(number, record.id, record.kind, record.name, record.where, record.at_ms, "noted" if is_note else "waiting", value)


def as_json(told: Mapping[tuple[int, int], Told], step_ids: Sequence[str], upto: int | None) -> list[dict[str, Any]]:
    """Functions by item and step."""
    known = dict(enumerate(step_ids))  # a deleted run has none
    return [{"item": item, "step": known.get(step, str(step)), **_function(one, upto)} for (item, step), one in sorted(told.items())]


def _function(told: Told, upto: int | None) -> dict[str, Any]:
    end = len(told.records) if upto is None else min(upto, len(told.records))
    commands = commands_of(told, end)
    return {
        "records": len(told.records),
        "upto": end,
        **_outside(told.records[:end]),
        "blocked": told.function.blocked or None,
        "waits_at": [one.where for one in commands if one.state == "waiting"],
        "commands": [_command(one) for one in commands],
    }


def _outside(records: Iterable[Record]) -> dict[str, Any]:
    """What is no command."""
    told: dict[str, Any] = {"version": None, "taken_over": 0, "updates": [], "cancelled": False}
    for number, record in enumerate(records):
        if isinstance(record, Began):
            told["version"] = record.version
        elif isinstance(record, TakenOver):
            told["taken_over"] = number
        elif isinstance(record, UpdateAsked):
            told["updates"].append(record.name)
        elif isinstance(record, CancelAsked):
            told["cancelled"] = True
    return told


def _command(one: Command) -> dict[str, Any]:
    return {
        "record": one.record,
        "id": one.id,
        "kind": one.kind,
        "name": one.name,
        "state": one.state,
        "where": one.where,
        "at_ms": one.at_ms,
        "tries": one.tries,
        "value": raw(one.value),
    }
