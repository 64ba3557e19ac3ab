"""What a durable function may take over from one in another run, so that what it paid for there is not done again. Pure.

Its history is good up to the failure that it ended with, the cancellation, or the command that is to be done again: a body that is given
the same input replays it, and asks again for what failed. What came behind counts where it was asked for before that moment, by the
command's id and the fingerprint of its arguments; and so does all, where the body begins at its beginning. What came of the failure
itself is nobody's. What a saga has undone is done again, and so is all that was asked for since the saga began.

A body that is carried on meets the time of now, not that of then: so a history ends before a record behind which the body asks for
something that is not taken over, or for a time limit that is over by now; what ended there is told once more, now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from stepmesh_broker.protocol.histories import NOTES, Began, CancelAsked, Issued, Kind, Record, Settled, TakenOver, Tried, UpdateAsked
from stepmesh_broker.protocol.messages import Failure
from stepmesh_orchestrator.core.functions import Function, due_ms
from stepmesh_orchestrator.core.seeds import FunctionSeed, Kept

REUSED = frozenset({Kind.STEP, Kind.CALL, Kind.CHILD, Kind.EVENT, Kind.PROMISE})
"""Commands whose results may be kept. A time that was waited for in one order of things is none in another."""
LIMIT = "timer"
"""What a timer is called that limits something else."""


class _Options(msgspec.Struct):
    undoes: str | None = None


_options = msgspec.json.Decoder(_Options)


@dataclass(slots=True)
class PastFunction:
    """A durable function of an item in another run, as its journal tells. `function`: as it stood last. `abandoned`: by command, how many
    records there were when it was told. `failure`: with which it ended."""

    item: int
    step: int
    function: Function = field(default_factory=Function)
    abandoned: dict[str, int] = field(default_factory=dict[str, int])
    failure: Failure | None = None


class _Cut(NamedTuple):
    """Before a record. `at_ms`: what was asked for before that time was not asked for because of it."""

    place: int
    at_ms: int

    def is_behind(self, place: int, command: Issued) -> bool:
        """Whether the command was asked for before the cut, wherever it stands."""
        return place < self.place or command.at_ms < self.at_ms


def seed_of(past: PastFunction, item: int, value: bytes, place: str, now_ms: int, again: str | None = None) -> FunctionSeed:
    """`item`: in the new run. `value`: the step's input there; `place`: `run.item.step` there. `again`: a command that is to be done
    again."""
    function, records = past.function, past.function.records
    until = _until(past, again)
    end = _end(past, until, now_ms)
    taken = list(_taken(records, end))
    results = {record.id for record in taken if isinstance(record, Settled)}
    kept = {**function.kept, **_kept(records, until, results)}
    kept.pop(again or "", None)
    updates = [one for one in records[end.place : until.place] if isinstance(one, UpdateAsked)]
    asked = {record.id for record in taken if isinstance(record, Issued)}
    abandoned = [id for id, known in past.abandoned.items() if known <= end.place and id in asked]
    return FunctionSeed(item, past.step, value, taken, list(kept.values()), updates, abandoned, function.input, place)


def begun(seed: FunctionSeed, now_ms: int, *, anew: bool) -> Function:
    """The function as it begins with that."""
    kept = {one.id: one for one in seed.kept}
    if anew:
        return unwound(Function(seed.records, kept=kept), now_ms)
    function = Function(input=seed.continued, kept=kept, taken=True)
    for record in (*seed.records, TakenOver(now_ms, len(kept), seed.place if seed.records else "")):
        function.append(record)
    for id in seed.abandoned:
        function.close(id)
    for answer in answers(function, function.commands(), now_ms):
        function.append(answer)
    for update in seed.updates:
        function.append(msgspec.structs.replace(update, at_ms=now_ms))
    return function


def unwound(function: Function, now_ms: int) -> Function:
    """The same, at its beginning. It still belongs to the version that somebody chose for it."""
    kept = {**function.kept, **_kept(function.records, _Cut(len(function.records), now_ms), set())}
    found = Function(input=function.input, kept=kept, version=function.version)
    found.append(TakenOver(now_ms, len(kept)))
    return found


def answers(function: Function, commands: Sequence[Issued], now_ms: int) -> list[Settled]:
    """What another run gave to those of the commands that are the same."""
    same = ((command, function.kept.get(command.id)) for command in commands if command.id in function.open)
    return [Settled(command.id, now_ms, one.value) for command, one in same if one is not None and _is_same(command, one)]


def results_of(seed: FunctionSeed) -> int:
    """How many results it has to give, but for times that were waited for."""
    asked = {one.id for one in seed.records if isinstance(one, Issued) and one.kind in REUSED}
    return len(seed.kept) + sum(isinstance(one, Settled) and one.failure is None and one.id in asked for one in seed.records)


def is_answered(record: Record, id: str) -> bool:
    """Whether it is this command, and one that somebody answers."""
    return isinstance(record, Issued) and record.id == id and record.kind not in NOTES


def _is_same(command: Issued, one: Kept) -> bool:
    return (command.kind, command.name, command.fingerprint) == (one.kind, one.name, one.fingerprint)


def _kept(records: Sequence[Record], until: _Cut, but: set[str]) -> dict[str, Kept]:
    """Results of commands that were asked for before `until`."""
    asked = {one.id: one for place, one in enumerate(records) if isinstance(one, Issued) and until.is_behind(place, one)}
    found: dict[str, Kept] = {}
    for record in records:
        if isinstance(record, Settled) and record.failure is None and record.id not in but:
            command = asked.get(record.id)
            if command is not None and command.kind in REUSED:
                found[command.id] = Kept(command.id, command.kind, command.name, command.fingerprint, record.value)
    return found


def _taken(records: Sequence[Record], end: _Cut) -> Iterator[Record]:
    """The history as it is taken over. Attempts of a step that has no result count from 1 again."""
    if not any(isinstance(record, Began) for record in records[: end.place]):
        return
    over = {record.id for record in records[: end.place] if isinstance(record, Settled)}
    for at, record in enumerate(records):
        if isinstance(record, Issued):
            if end.is_behind(at, record):
                yield record
        elif at < end.place and not (isinstance(record, Tried) and record.id not in over):
            yield record


# --- where a history ends ---------------------------------------------------------------------------------------------


def _until(past: PastFunction, again: str | None) -> _Cut:
    """What was asked for before this may be kept."""
    records = past.function.records
    found = [_Cut(place, records[place].at_ms) for place in _ends(past, again)]
    return min(found, default=_Cut(len(records), _FOR_EVER))


_FOR_EVER = 2**62


def _ends(past: PastFunction, again: str | None) -> Iterator[int]:
    records = past.function.records
    for place, record in enumerate(records):
        if isinstance(record, CancelAsked) or (isinstance(record, Settled) and record.id == again):
            yield place
    undone = _undone(records)
    if undone is not None:
        yield undone
    failed = _failed(past)
    if failed is not None:
        yield failed


def _undone(records: Sequence[Record]) -> int | None:
    """Where the first command stands of what was undone."""
    places = {record.id: place for place, record in enumerate(records) if isinstance(record, Issued)}
    befores = [before for record in records if isinstance(record, Issued) and (before := undoes(record)) is not None]
    firsts = [places.get(before, -1) + 1 for before in befores]
    behind = range(min(firsts), len(records)) if firsts else ()
    return next((place for place in behind if isinstance(records[place], Issued)), None)


def undoes(command: Issued) -> str | None:
    """Of a command that undoes what was asked for since another one: which; "" for all. None: it undoes nothing."""
    if b"undoes" not in command.options:
        return None
    try:
        return _options.decode(command.options).undoes
    except msgspec.MsgspecError:
        return None


def _failed(past: PastFunction) -> int | None:
    """Where the failure stands that the function ended with. One after which it went on, and which is not what it ended with, is not it;
    nor is one that came after another one to which the body had not said anything yet."""
    records, failure = past.function.records, past.failure
    own = [at for at, one in enumerate(records) if isinstance(one, Issued) and undoes(one) is None]
    failures = [(at, one.failure) for at, one in enumerate(records) if isinstance(one, Settled) and one.failure is not None]
    if failure is None or not failures:
        return None
    place, cause = failures.pop()
    if cause.message not in failure.message and any(at > place for at in own):
        return None
    while failures and not any(failures[-1][0] < at < place for at in own):
        place, _ = failures.pop()
    return place


def _end(past: PastFunction, until: _Cut, now_ms: int) -> _Cut:
    """Where the history ends that is taken over: at a record that moved the body."""
    records = past.function.records
    moved = [at for at, one in enumerate(records) if isinstance(one, Settled | UpdateAsked | CancelAsked)]
    end = until
    if until.place == len(records):
        end = _Cut(moved[-1], records[moved[-1]].at_ms) if moved else until
    elif isinstance(records[until.place], Issued):
        end = _first_since(records, moved, until.at_ms)
    late = [one.at_ms for one in _limits_over(past, end, now_ms)]
    return min(end, _first_since(records, moved, min(late))) if late else end


def _first_since(records: Sequence[Record], moved: Sequence[int], at_ms: int) -> _Cut:
    """The first record that the body got at this time or later. Nothing is taken over of what a body asked for when it began."""
    began = next((one.at_ms for one in records if isinstance(one, Began)), at_ms)
    if at_ms <= began:
        return _Cut(0, 0)
    return next((_Cut(at, records[at].at_ms) for at in moved if records[at].at_ms >= at_ms), _Cut(len(records), _FOR_EVER))


def _limits_over(past: PastFunction, end: _Cut, now_ms: int) -> Iterator[Issued]:
    """Time limits that are waited for at the end, and would be over now."""
    records = past.function.records
    over = {one.id for one in records[: end.place] if isinstance(one, Settled)}
    for place, one in enumerate(records):
        is_limit = isinstance(one, Issued) and (one.kind, one.name) == (Kind.TIMER, LIMIT) and end.is_behind(place, one)
        if isinstance(one, Issued) and is_limit and one.id not in over:
            waited = past.abandoned.get(one.id, len(records) + 1) > end.place
            if waited and due_ms(one) <= now_ms:
                yield one
