"""One body and its history: replayed from the beginning, then carried on, one record per idle.

The invariant of it all: a record is delivered, then the body runs until it is quiescent, and only then is the next one delivered. What the
body asks for meanwhile is compared, scope by scope, with what it asked for when the history was made (ledger.py). A divergence is never
raised into the body: it stands still from then on, whatever it would catch.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

import msgspec

from stepmesh.durable import divergence
from stepmesh.durable.attempts import Plan
from stepmesh.durable.callsite import here
from stepmesh.durable.divergence import Divergence
from stepmesh.durable.endings import Cancelling, Leftovers, TooLong
from stepmesh.durable.handlers import Handlers, ReadOnly, refused
from stepmesh.durable.identity import Identity
from stepmesh.durable.ledger import Ledger
from stepmesh.durable.limits import USUAL, Limits
from stepmesh.durable.loop import ReplayLoop, SwallowedEnd, Timer
from stepmesh.durable.scopes import Scope, current, undoing
from stepmesh.durable.turns import State, Turn
from stepmesh.durable.values import PayloadTooLarge
from stepmesh.durable.waits import Settle, Wait, Waits
from stepmesh.durable.watchdog import watched
from stepmesh_broker.protocol import tokens
from stepmesh_broker.protocol.histories import Began, CancelAsked, Issued, Kind, Record, Settled, TakenOver, Tried, UpdateAsked
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.letters import Waiter

__all__ = ["Execution", "Settle", "State", "Turn", "executing"]
T = TypeVar("T")
log = logging.getLogger("stepmesh.durable")


class Execution:
    """`body`: makes the coroutine. Drive it with `turn`; `drop` it when it is not to go on here. `identity`: whose it is, for messages and
    for `wf.info()`. `token_of`: makes the token that settles a command from outside; by default one that no deployment takes."""

    def __init__(
        self,
        body: Callable[[], Coroutine[Any, Any, Any]],
        started_ms: int,
        run: str = "",
        identity: Identity | None = None,
        limits: Limits = USUAL,
        token_of: Callable[[str], str] | None = None,
    ) -> None:
        self._body = body
        self.identity = identity or Identity(run)
        self.run = run
        self.started_ms = started_ms
        self.limits = limits
        self.token_of = token_of or (lambda id: tokens.token_of(Waiter(RunId(run), 0, 0, 0, id), ""))
        self.replaying = False
        self.unheard = 0
        self.sagas = 0  # that the body is within
        self._reading = False
        self._dropped = False
        self._warned = False
        self.handlers = Handlers()
        self._patches: dict[str, bool] = {}
        self._ledger = Ledger()
        self._cancelling = Cancelling(limits.after_cancel)
        self._held: list[Callable[[], None]] = []  # until no shield stands
        self._leftovers = Leftovers()
        self._history = TooLong(limits.history_warn, limits.history_most)
        self._divergence: Divergence | None = None
        self._stopped: Turn | None = None  # the body goes no further: how the run ends
        self._root: asyncio.Task[Any] | None = None
        self._updates = Scope("u")
        self.loop = ReplayLoop(self._timer_set, self._troubled)
        self._waits = Waits(run, self.loop)
        self.loop.now = started_ms / 1000
        self.loop.policy = limits.guard

    # --- driven by the worker ---------------------------------------------------------------------------------------

    def turn(self, records: Sequence[Record] = ()) -> Turn:
        """Deliver records, which follow those of earlier turns in the journal, one per idle."""
        self._ledger.begin()
        for record in records:
            if isinstance(record, Issued) and (found := self._ledger.recall(record)) is not None:
                self._diverge(found)
        with watched(self.identity, self.limits) as watch:
            self._run(records)
        if watch.blocked is not None and self.limits.guard == "error":
            self.stop(Turn(State.FAILED, error=watch.blocked))
        return self._end(len(records))

    def drop(self) -> None:
        """It ends here, for now: nothing of it runs any more but `finally` blocks, and what those ask for is never done."""
        self.loop.halt()
        self._dropped = True
        self.loop.abandon()
        self._leftovers.close()
        self._waits.forget()
        self._held.clear()
        self.handlers = Handlers()
        self._root = None

    def query(self, name: str, arguments: bytes = b"{}") -> bytes:
        """What a handler of the body says now, as JSON. It changes nothing. Raises `UnknownHandler`, `ReadOnly`, and what it raises."""
        context = copy_context()
        context.run(executing.set, self)
        context.run(current.set, Scope("q"))
        self._reading = True
        try:
            return context.run(self.loop.within, lambda: self.handlers.query(name, arguments))
        finally:
            self._reading = False

    def _run(self, records: Sequence[Record]) -> None:
        self.unheard = 0
        known = max((at for at, record in enumerate(records) if isinstance(record, Issued)), default=-1)
        from_zero = self._root is None
        if from_zero and not self.loop.halted:
            self.replaying = known >= 0
            self._root = self._task(self._body, None)
            self.loop.drain()
        for at, record in enumerate(records):
            if self.loop.halted:
                self.unheard = len(records) - at  # the body ended before them
                break
            if not isinstance(record, Began | Issued):
                self.replaying = from_zero and at < known
                self._deliver(record)
        self.replaying = False

    def _task(self, make: Callable[[], Coroutine[Any, Any, Any]], scope: Scope | None) -> asyncio.Task[Any]:
        """One that is the body's own, in a child of `scope`."""
        context = copy_context()
        context.run(executing.set, self)
        if scope is not None:
            context.run(current.set, scope)
        return context.run(lambda: self.loop.create_task(make()))

    def _deliver(self, record: Settled | Tried | CancelAsked | UpdateAsked | TakenOver) -> None:
        self.loop.now = max(self.loop.now, record.at_ms / 1000)
        if isinstance(record, TakenOver):
            return
        if isinstance(record, Tried):
            self._waits.tried(record)
            return
        if isinstance(record, CancelAsked):
            self._cancelling.ask(record.reason)
            self._pass_cancel()
        elif isinstance(record, UpdateAsked):
            self._leftovers.detach(self._task(lambda: self._answered(record), self._updates))
        elif not self._waits.settle(record):
            self._diverge(self._unasked(record))
            return
        self.loop.drain()

    async def _answered(self, asked: UpdateAsked) -> None:
        reply, most = await self.handlers.update(asked.name, asked.arguments), self.limits.payload_bytes
        if len(reply) > most and ((recorded := self._ledger.next(current.get().path)) is None or recorded.arguments != reply):
            reply = refused(PayloadTooLarge.of(f"the reply of {asked.name}", f"run {self.identity}", len(reply), most))
        self.note(Kind.REPLY, asked.id, reply)

    def _unasked(self, result: Settled) -> Divergence:
        if self._root is not None and self._root.done() and (rest := self._ledger.remaining()):
            return divergence.unfinished(rest, self._ledger.last)
        return divergence.unasked(result, self._ledger.find(result.id))

    # --- the end of a turn -------------------------------------------------------------------------------------------

    def _end(self, records: int) -> Turn:
        root, over = self._root, self._stopped is not None or self._is_over()
        if self._divergence is None and over and (rest := self._ledger.remaining()):
            self._diverge(divergence.unfinished(rest, self._ledger.last))
        if self._divergence is not None:
            return Turn(State.DIVERGED, divergence=self._divergence)
        full = self._history.grown(records, len(self._ledger.new), self._ledger.counts, self.identity)
        if full is not None:
            self.stop(Turn(State.FAILED, error=full))
        turn = self._stopped or Turn(State.IDLE)
        turn.commands = [] if full is not None else self._ledger.new
        turn.abandoned, turn.local = self._waits.abandoned, self._waits.local
        if self._stopped is None and over and root is not None:
            self._ended(turn, root)
        return turn

    def _is_over(self) -> bool:
        return self._root is not None and self._root.done() and self._leftovers.detached_are_done()

    def _ended(self, turn: Turn, root: asyncio.Task[Any]) -> None:
        if root.cancelled():
            turn.state = State.CANCELLED
        elif (error := root.exception() or self._left()) is not None:
            turn.state, turn.error = State.FAILED, error
        else:
            turn.state, turn.value = State.DONE, root.result()

    def _left(self) -> BaseException | None:
        return self._leftovers.found(self.loop.alive(), self.identity, self.limits.guard)

    def stop(self, turn: Turn) -> None:
        """The body goes no further, and this is how it ended."""
        self._stopped = self._stopped or turn
        self.loop.halt()

    def _diverge(self, found: Divergence) -> None:
        self._divergence = self._divergence or found.of(self.identity)
        self.loop.halt()

    @property
    def waits(self) -> bool:
        """Whether a record could move the body: a result, or an update, whose handler may set what the body waits for."""
        return bool(self.handlers.updates or self._waits)

    @property
    def last_asked(self) -> str:
        """The id of the command that the body asked for last, "" for none."""
        return "" if self._ledger.last is None else self._ledger.last.id

    # --- asked by the body -------------------------------------------------------------------------------------------

    def issue(
        self,
        kind: Kind,
        name: str,
        arguments: bytes,
        settle: Settle,
        *,
        plan: Plan | None = None,
        options: bytes = b"",
        where: str = "",
    ) -> asyncio.Future[Any]:
        """A command, and the future that its result comes in. `arguments`: JSON text, compared in a replay; `options` are not."""
        return self.command(kind, name, arguments, settle, plan=plan, options=options, where=where)[1]

    def command(
        self,
        kind: Kind,
        name: str,
        arguments: bytes,
        settle: Settle,
        *,
        plan: Plan | None = None,
        options: bytes = b"",
        where: str = "",
    ) -> tuple[str, asyncio.Future[Any]]:
        """The same with the command's id, "" when the body may go no further."""
        future = Wait(loop=self.loop)
        command = self._asked(current.get(), kind, name, arguments, options=options, where=where)
        if command is None:
            return "", future
        self._waits.add(command, future, settle, plan)
        return command.id, future

    def note(self, kind: Kind, name: str, arguments: bytes) -> None:
        """A command that nobody answers."""
        self._asked(current.get(), kind, name, arguments)

    def effect(self, name: str, make: Callable[[], bytes]) -> bytes:
        """A value (JSON text) that is made once: the record itself holds it."""
        scope = current.get()
        recorded = self._ledger.next(scope.path)
        known = recorded.arguments if recorded is not None and recorded.kind is Kind.EFFECT else self.loop.outside(make)
        self._asked(scope, Kind.EFFECT, name, known, compare=False)
        return known

    def patched(self, name: str) -> bool:
        """Whether this run began, or got to this place, with the code that asks. The same answer from then on."""
        if name not in self._patches:
            scope = current.get()
            recorded = self._ledger.next(scope.path)
            is_new = recorded is None or (recorded.kind is Kind.PATCH and recorded.name == name)
            if is_new:
                self._asked(scope, Kind.PATCH, name, b"null", compare=False)
            self._patches[name] = is_new
        return self._patches[name]

    def expecting(self, coroutine: Coroutine[Any, Any, T], what: str, where: str) -> Coroutine[Any, Any, T]:
        """Remember what was made to be awaited: a body that forgets to is told so at its end."""
        self._leftovers.expect(coroutine, what, where)
        return coroutine

    def detach(self, task: asyncio.Future[Any]) -> None:
        """Nobody waits for it, and the run does not end before it."""
        self._leftovers.detach(task)
        task.add_done_callback(self._detached_ended)

    def _troubled(self, context: dict[str, Any]) -> None:
        """What asyncio finds that nobody in the body hears of, such as the exception of a task that nobody awaits."""
        if not self.replaying:
            log.warning("in the body of run %s: %s: %r", self.identity, context["message"], context.get("exception"))

    def _detached_ended(self, task: asyncio.Future[Any]) -> None:
        if not task.cancelled() and (problem := task.exception()) is not None and not self.replaying:
            log.warning("a detached task of run %s failed: %s", self.identity, problem)

    def shield(self) -> None:
        """A cancellation waits from now on."""
        self._cancelling.shields += 1

    def unshield(self) -> None:
        """One that waited comes now."""
        self._cancelling.shields -= 1
        self._pass_cancel()
        if not self._cancelling.shields:
            held, self._held = self._held, []
            for act in held:
                act()

    def unless_shielded(self, act: Callable[[], None]) -> None:
        """Now, or when the last shield ends."""
        if self._cancelling.shields:
            self._held.append(act)
        else:
            act()

    def _pass_cancel(self) -> None:
        if self._root is not None and self._cancelling.due():
            self._root.cancel(self._cancelling.reason or None)
            self._leftovers.cancel()

    def _timer_set(self, timer: Timer) -> None:
        scope = timer.scope
        if scope is None:  # nothing of the body
            return
        due = msgspec.json.encode({"due_ms": round(timer.when() * 1000)})
        command = self._asked(scope, Kind.TIMER, timer.name, due)
        if command is not None:
            self._waits.add_timer(command, timer)

    def _asked(
        self, scope: Scope, kind: Kind, name: str, arguments: bytes, *, compare: bool = True, options: bytes = b"", where: str = ""
    ) -> Issued | None:
        """None when the body may go no further."""
        if self._reading:
            raise ReadOnly.of(name, where or here(2))
        if self.loop.halted:
            self._too_late(kind, name, where or here(2))
            return None
        name = name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()  # a file's name may be no Unicode
        fingerprint = hashlib.blake2s(arguments, digest_size=8).hexdigest() if compare else ""
        at_ms = round(self.loop.now * 1000)
        if (before := undoing.get(None)) is not None:
            options = _marked(options, before)
        command = Issued(scope.name(name), kind, name, fingerprint, arguments, where or here(2), at_ms, options)
        if (found := self._ledger.ask(scope.path, command)) is not None:
            self._diverge(found)
            return None
        if (swallowed := self._cancelling.asked(command, self.identity)) is not None:
            self.stop(Turn(State.CANCELLED, error=swallowed))
            return None
        return command

    def _too_late(self, kind: Kind, name: str, where: str) -> None:
        """Told once of a body that is put away."""
        if self._dropped and not self._warned:
            self._warned = True
            log.warning("%s", SwallowedEnd.of_command(f"{kind} `{name}`", where, str(self.identity)))


def _marked(options: bytes, before: str) -> bytes:
    """Of a command that undoes all that was asked for since another one."""
    told = msgspec.json.decode(options) if options else {}
    return msgspec.json.encode({**told, "undoes": before})


executing: ContextVar[Execution] = ContextVar("stepmesh_execution")
"""Of the body that runs now; unset outside of bodies."""
