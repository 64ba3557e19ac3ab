"""The proof: what the journal says, held against what the ledger saw. Each check is one promise of the engine.

Pure: a history and executions in, findings out. Rules, for every run tree that was submitted:

- every run and every item of it ended, once, and nothing of it happened afterwards;
- every step has one outcome at most, a dispatched one exactly one, and no dispatch after it;
- an attempt is dispatched once, attempts count up from 1;
- the output of a step that a worker carried out was made by an execution in the ledger;
- no component began a step whose outcome was journaled already, but for `TOLERANCE_MS`;
- no item failed: the retry budget for lost workers is larger than the plan's kills of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stepmesh_broker.protocol.ids import RunId
from stepmesh_cli.demo.history import Entry, History
from stepmesh_cli.demo.ledger import Execution
from stepmesh_orchestrator.core.events import (
    ItemEnded,
    ItemStarted,
    RunCreated,
    RunEnded,
    StepDefaulted,
    StepDispatched,
    StepFailed,
    StepSkipped,
    StepSucceeded,
)

TOLERANCE_MS = 50
"""A step that begins this soon after the time of the frame with its outcome is not held against the engine: that time is when the
turn began, before its fsync, and a worker that was told to go on just before needs a moment to begin (ms)."""
SHOWN = 5
"""Findings of one check that are told."""
Outcome = StepSucceeded | StepFailed | StepDefaulted | StepSkipped
_OUTCOMES = (StepSucceeded, StepFailed, StepDefaulted, StepSkipped)
StepKey = tuple[RunId, int, int]


@dataclass(frozen=True, slots=True)
class Check:
    """`counted`: how many things were looked at; `findings`: what is wrong, one line each, none when it holds."""

    name: str
    counted: int
    findings: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing was found, and there was something to look at."""
        return not self.findings and self.counted > 0


@dataclass(slots=True)
class _Index:
    """The history by run, item and step."""

    created: Counter[RunId] = field(default_factory=Counter[RunId])
    run_ended: defaultdict[RunId, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    item_started: Counter[tuple[RunId, int]] = field(default_factory=Counter[tuple[RunId, int]])
    item_ended: Counter[tuple[RunId, int]] = field(default_factory=Counter[tuple[RunId, int]])
    outcomes: defaultdict[StepKey, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    dispatched: defaultdict[StepKey, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    afterwards: list[str] = field(default_factory=list[str])


def audit(history: History, executions: Sequence[Execution]) -> list[Check]:
    """All checks, in the order of the rules above."""
    index = _indexed(history)
    return [
        _runs_end(history, index),
        _items_end(history, index),
        _one_outcome(history, index),
        _dispatches(history, index),
        _witnessed(history, index, executions),
        _not_again(history, index, executions),
        _nothing_failed(history),
    ]


def _indexed(history: History) -> _Index:
    index = _Index()
    for entry in history.entries:
        event = entry.event
        if event.run in index.run_ended:
            index.afterwards.append(f"{type(event).__name__} in frame {entry.sequence} after run {event.run} ended")
        if isinstance(event, RunCreated):
            index.created[event.run] += 1
        elif isinstance(event, RunEnded):
            index.run_ended[event.run].append(entry)
        elif isinstance(event, ItemStarted):
            index.item_started[event.run, event.item] += 1
        elif isinstance(event, ItemEnded):
            index.item_ended[event.run, event.item] += 1
        elif isinstance(event, StepDispatched):
            index.dispatched[event.run, event.item, event.step].append(entry)
        elif isinstance(event, _OUTCOMES):
            index.outcomes[event.run, event.item, event.step].append(entry)
    return index


def _runs_end(history: History, index: _Index) -> Check:
    wrong = [f"run {run} was created {count} times" for run, count in index.created.items() if count != 1]
    wrong += [f"run {run} ended {len(index.run_ended[run])} times" for run in history.created if len(index.run_ended.get(run, ())) != 1]
    keys = Counter(created.run_key for created in history.created.values() if created.run_key is not None)
    wrong += [f"run key {key} made {count} runs" for key, count in keys.items() if count != 1]
    return _check("every run ended, once", len(index.created), [*wrong, *index.afterwards])


def _items_end(history: History, index: _Index) -> Check:
    wrong: list[str] = []
    expected = 0
    for run, created in history.created.items():
        expected += len(created.inputs)
        for item in range(len(created.inputs)):
            started, ended = index.item_started[run, item], index.item_ended[run, item]
            if (started, ended) != (1, 1):
                wrong.append(f"item {item} of run {run} started {started} times and ended {ended} times")
    return _check("every item ended, once", expected, wrong)


def _one_outcome(history: History, index: _Index) -> Check:
    wrong = [f"{_named(history, key)} has {len(found)} outcomes" for key, found in index.outcomes.items() if len(found) != 1]
    wrong += [f"{_named(history, key)} was dispatched and has no outcome" for key in index.dispatched if not index.outcomes.get(key)]
    return _check("every step has one outcome", len(index.outcomes), wrong)


def _dispatches(history: History, index: _Index) -> Check:
    wrong: list[str] = []
    for key, found in index.dispatched.items():
        attempts = [entry.event.attempt for entry in found if isinstance(entry.event, StepDispatched)]
        if attempts != list(range(1, len(attempts) + 1)):
            wrong.append(f"{_named(history, key)} was dispatched as attempts {attempts}")
        outcome = index.outcomes.get(key)
        if outcome and found[-1].sequence > outcome[0].sequence:
            wrong.append(f"{_named(history, key)} was dispatched in frame {found[-1].sequence}, after its outcome in {outcome[0].sequence}")
    return _check("every attempt was dispatched once, none after the outcome", sum(map(len, index.dispatched.values())), wrong)


def _witnessed(history: History, index: _Index, executions: Sequence[Execution]) -> Check:
    ended = {(one.run, one.item, one.step, one.attempt) for one in executions if one.outcome == "ok"}
    wrong: list[str] = []
    counted = 0
    for key, found in index.dispatched.items():
        outcome = index.outcomes.get(key)
        if not outcome or not isinstance(outcome[0].event, StepSucceeded) or history.component(key[0], key[2]).startswith("/builtin/"):
            continue
        counted += 1
        last = found[-1].event
        attempt = last.attempt if isinstance(last, StepDispatched) else 0
        if (key[0], key[1], history.step_id(key[0], key[2]), attempt) not in ended:
            wrong.append(f"{_named(history, key)} has a result, but no execution of attempt {attempt} ended well")
    return _check("every result comes from an execution in the ledger", counted, wrong)


def _not_again(history: History, index: _Index, executions: Sequence[Execution]) -> Check:
    done: dict[tuple[str, int, str], int] = {}
    for (run, item, step), found in index.outcomes.items():
        done[run, item, history.step_id(run, step)] = found[0].at_ms
    wrong: list[str] = []
    for one in executions:
        at_ms = done.get((one.run, one.item, one.step))
        late_ms = one.start_us / 1000 - at_ms if at_ms is not None else 0
        if late_ms > TOLERANCE_MS:
            wrong.append(
                f"step {one.step} of item {one.item} of run {one.run} (attempt {one.attempt}) began in process {one.pid}, "
                f"{late_ms:.0f} ms after its outcome was journaled; that execution: {one.outcome}"
            )
    return _check("no completed step ran again", len(executions), wrong)


def _nothing_failed(history: History) -> Check:
    ended = [entry.event for entry in history.entries if isinstance(entry.event, ItemEnded)]
    wrong = [f"item {event.item} of run {event.run} failed: {event.failure.message}" for event in ended if event.failure is not None]
    return _check("no item failed for a kill", len(ended), wrong)


def repeated(executions: Iterable[Execution]) -> int:
    """Steps whose code was executed more than once for the same attempt: what at-least-once costs, before an outcome."""
    return sum(count > 1 for count in Counter((one.run, one.item, one.step, one.attempt) for one in executions).values())


def _named(history: History, key: StepKey) -> str:
    return f"step {history.step_id(key[0], key[2])} of item {key[1]} of run {key[0]}"


def _check(name: str, counted: int, wrong: Sequence[str]) -> Check:
    shown = list(wrong[:SHOWN])
    if len(wrong) > SHOWN:
        shown.append(f"… and {len(wrong) - SHOWN} more")
    return Check(name, counted, tuple(shown))
