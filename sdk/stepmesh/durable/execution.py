"""One body and its history: replayed from the beginning, then carried on, one record per idle.

The invariant of it all: a record is delivered, then the body runs until it is quiescent, and only then is the next one delivered. What the
body asks for meanwhile is compared, scope by scope, with what it asked for when the history was made. A divergence is never raised into
the body: it stands still from then on, whatever it would catch.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from stepmesh.durable import divergence
from stepmesh.durable.callsite import here
from stepmesh.durable.divergence import Divergence
from stepmesh.durable.loop import ReplayLoop, Timer
from stepmesh.durable.scopes import Scope, current
from stepmesh_broker.protocol.histories import CancelAsked, Issued, Kind, Record, Settled

Settle = Callable[[asyncio.Future[Any], Settled], None]
"""Puts what came of a command into its future."""
Work = Callable[[], Awaitable[bytes]]
"""Does a local step; its value as JSON text."""


class State(StrEnum):
    """Where a body stands after a turn."""

    IDLE = "idle"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DIVERGED = "diverged"


@dataclass
class Turn:
    """What a turn brought. `commands`: those that the history lacks, in the order of their issuing. `abandoned`: ids whose results the body
    waits for no more. `local`: what the worker itself is to do, by id: the steps without a result, those of earlier turns among them."""

    state: State
    commands: list[Issued] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)
    value: Any = None
    error: BaseException | None = None
    divergence: Divergence | None = None
    local: Mapping[str, Work] = field(default_factory=dict)


@dataclass
class _Pending:
    """A command whose result is awaited."""

    command: Issued
    future: asyncio.Future[Any] | None = None
    settle: Settle | None = None
    timer: Timer | None = None
    work: Work | None = None

    @property
    def abandoned(self) -> bool:
        if self.timer is not None:
            return self.timer.cancelled()
        return self.future is not None and self.future.cancelled()


class Execution:
    """`body`: makes the coroutine, given the argument. Drive it with `turn`; `drop` it when it is not to go on here."""

    def __init__(self, body: Callable[[], Coroutine[Any, Any, Any]], started_ms: int, run: str = "") -> None:
        self._body = body
        self._patches: dict[str, bool] = {}
        self._shields = 0
        self._cancel: str | None = None
        self.run = run
        self._recorded: defaultdict[str, deque[Issued]] = defaultdict(deque)  # by scope: in the history, not asked for yet
        self._unrecorded: defaultdict[str, deque[Issued]] = defaultdict(deque)  # by scope: asked for, not in the history yet
        self._issued: defaultdict[str, list[str]] = defaultdict(list)  # by scope: names
        self._commands: list[Issued] = []  # new in this turn
        self._pending: dict[str, _Pending] = {}
        self._by_id: dict[str, Issued] = {}
        self._last: Issued | None = None
        self._divergence: Divergence | None = None
        self._trouble: list[dict[str, Any]] = []
        self._root: asyncio.Task[Any] | None = None
        self.loop = ReplayLoop(self._timer_set, self._trouble.append)
        self.loop.now = started_ms / 1000

    # --- driven by the worker ---------------------------------------------------------------------------------------

    def turn(self, records: Sequence[Record] = ()) -> Turn:
        """Deliver records, which follow those of earlier turns in the journal, one per idle."""
        self._commands = []
        for record in records:
            if isinstance(record, Issued):
                self._recall(record)
        if self._root is None and not self.loop.halted:
            self._start()
        for record in records:
            if self.loop.halted:
                break
            if isinstance(record, Settled | CancelAsked):
                self._deliver(record)
        return self._told()

    def drop(self) -> None:
        """It ends here, for now: nothing of it runs any more but `finally` blocks, and what those ask for is never done."""
        self.loop.halt()
        self.loop.abandon()

    def _start(self) -> None:
        token = executing.set(self)
        try:
            self._root = self.loop.create_task(self._body())
        finally:
            executing.reset(token)
        self.loop.drain()

    def _recall(self, record: Issued) -> None:
        """The history has this command. In a body that is alive it may be one that was asked for in an earlier turn."""
        scope = record.id.partition("/")[0]
        self._by_id[record.id] = record
        waiting = self._unrecorded[scope]
        if not waiting:
            self._recorded[scope].append(record)
            return
        asked = waiting.popleft()
        if (found := divergence.compared(record, asked, (), self._issued[scope])) is not None:
            self._diverge(found)

    def _deliver(self, record: Settled | CancelAsked) -> None:
        self.loop.now = max(self.loop.now, record.at_ms / 1000)
        if isinstance(record, CancelAsked):
            self._cancel = record.reason
            self._pass_cancel()
        else:
            pending = self._pending.pop(record.id, None)
            if pending is None:
                self._diverge(self._unasked(record))
                return
            self._settle(pending, record)
        self.loop.drain()

    def _unasked(self, result: Settled) -> Divergence:
        if self._root is not None and self._root.done() and (rest := self._remaining()):
            return divergence.unfinished(rest, self._last)
        return divergence.unasked(result, self._by_id.get(result.id))

    def _settle(self, pending: _Pending, record: Settled) -> None:
        if pending.timer is not None:
            self.loop.fire(pending.timer)
        elif pending.future is not None and pending.settle is not None and not pending.future.done():
            pending.settle(pending.future, record)

    def _told(self) -> Turn:
        root = self._root
        if self._divergence is None and root is not None and root.done() and (rest := self._remaining()):
            self._diverge(divergence.unfinished(rest, self._last))
        if self._divergence is not None:
            return Turn(State.DIVERGED, divergence=self._divergence)
        abandoned = [id for id, pending in self._pending.items() if pending.abandoned]
        local = {id: pending.work for id, pending in self._pending.items() if pending.work is not None and not pending.abandoned}
        turn = Turn(State.IDLE, self._commands, abandoned, local=local)
        if root is not None and root.done():
            self._end(turn, root)
        return turn

    def _end(self, turn: Turn, root: asyncio.Task[Any]) -> None:
        if root.cancelled():
            turn.state = State.CANCELLED
        elif (error := root.exception()) is not None:
            turn.state, turn.error = State.FAILED, error
        else:
            turn.state, turn.value = State.DONE, root.result()

    def _remaining(self) -> list[Issued]:
        return [command for waiting in self._recorded.values() for command in waiting]

    def _diverge(self, found: Divergence) -> None:
        self._divergence = self._divergence or found
        self.loop.halt()

    @property
    def waits(self) -> bool:
        """Whether a record could move the body."""
        return any(not pending.abandoned for pending in self._pending.values())

    # --- asked by the body -------------------------------------------------------------------------------------------

    def issue(
        self, kind: Kind, name: str, arguments: bytes, settle: Settle, *, compare: bool = True, work: Work | None = None
    ) -> asyncio.Future[Any]:
        """A command, and the future that its result comes in. `arguments`: JSON text; `compare`: whether a replay must give them again."""
        future = self.loop.create_future()
        command = self._asked(current.get(), kind, name, arguments, compare=compare)
        if command is not None:
            self._pending[command.id] = _Pending(command, future, settle, work=work)
        return future

    def note(self, kind: Kind, name: str, arguments: bytes) -> None:
        """A command that nobody answers."""
        self._asked(current.get(), kind, name, arguments, compare=True)

    def effect(self, name: str, make: Callable[[], bytes]) -> bytes:
        """A value (JSON text) that is made once: the record itself holds it."""
        scope = current.get()
        recorded = self._recorded[scope.path]
        known = recorded[0].arguments if recorded and recorded[0].kind is Kind.EFFECT else make()
        self._asked(scope, Kind.EFFECT, name, known, compare=False)
        return known

    def patched(self, name: str) -> bool:
        """Whether this run began, or got to this place, with the code that asks. The same answer from then on."""
        if name not in self._patches:
            scope = current.get()
            recorded = self._recorded[scope.path]
            is_new = not recorded or (recorded[0].kind is Kind.PATCH and recorded[0].name == name)
            if is_new:
                self._asked(scope, Kind.PATCH, name, b"null", compare=False)
            self._patches[name] = is_new
        return self._patches[name]

    def shield(self) -> None:
        """A cancellation waits from now on."""
        self._shields += 1

    def unshield(self) -> None:
        """One that waited comes now."""
        self._shields -= 1
        self._pass_cancel()

    def _pass_cancel(self) -> None:
        if self._cancel is not None and self._shields == 0 and self._root is not None:
            reason, self._cancel = self._cancel, None
            self._root.cancel(reason or None)

    def _timer_set(self, timer: Timer) -> None:
        scope = timer.scope
        if scope is None:  # nothing of the body
            return
        due = msgspec.json.encode({"due_ms": round(timer.when() * 1000)})
        command = self._asked(scope, Kind.TIMER, "sleep", due, compare=True)
        if command is not None:
            self._pending[command.id] = _Pending(command, timer=timer)

    def _asked(self, scope: Scope, kind: Kind, name: str, arguments: bytes, *, compare: bool) -> Issued | None:
        """None when the body may go no further."""
        if self.loop.halted:
            return None
        fingerprint = hashlib.blake2s(arguments, digest_size=8).hexdigest() if compare else ""
        command = Issued(scope.name(name), kind, name, fingerprint, arguments, here(2), round(self.loop.now * 1000))
        recorded = self._recorded[scope.path]
        if recorded:
            found = divergence.compared(recorded[0], command, list(recorded)[1:], self._issued[scope.path])
            if found is not None:
                self._diverge(found)
                return None
            recorded.popleft()
        else:
            self._unrecorded[scope.path].append(command)
            self._commands.append(command)
            self._by_id[command.id] = command
        self._issued[scope.path].append(name)
        self._last = command
        return command


executing: ContextVar[Execution] = ContextVar("stepmesh_execution")
"""Of the body that runs now; unset outside of bodies."""
