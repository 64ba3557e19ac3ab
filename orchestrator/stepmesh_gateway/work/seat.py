"""A connected worker's place: its credit, what it has, what it offers. The transport calls it; nothing here blocks.

Invariant: no more is sent than was allowed. A worker that claims (stepflow.v1) is sent one task more than it has begun: each one that
it was sent takes the credit until it says something about it, be that a claim, a result, or a question after a task that it lost.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stepmesh.attempt import Why
from stepmesh_broker.protocol.ids import WorkerId
from stepmesh_broker.protocol.messages import Result, TaskRef
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.work.catalogue import Catalogue, Found, as_is
from stepmesh_gateway.work.held import Held
from stepmesh_gateway.work.line import Assigned, Line, Offer, WorkerHello

if TYPE_CHECKING:
    from stepmesh_gateway.work.desk import Desk

DISCOVERY_S = 1.0
"""How long a worker's list of components is waited for before its tasks are named by a guess, in seconds."""


class Seat:
    """Made by `Bridge.join`. `holding`: what was sent here, or is being claimed for it, and is not over. `unclaimed`: when each copy was
    sent about which a worker that claims has said nothing yet; the task may be with somebody else by now."""

    def __init__(self, hello: WorkerHello, line: Line, desk: Desk) -> None:
        self.hello = hello
        self.line = line
        self.credit = 0
        self.begun = 0  # tasks that it runs now
        self.most = 1  # and that it ran at once, so far
        self.holding: dict[TaskRef, Held] = {}
        self.unclaimed: dict[TaskId, tuple[Held, float]] = {}
        self.entry = 0  # its valid place in the desk's heap
        self.leaving = False
        self.gone = False
        self.catalogue: Catalogue | None = None if hello.offers is None else Catalogue(hello.offers)
        self._unrecorded = 0
        self._questions = 0
        self._answers: dict[int, asyncio.Future[bytes | None]] = {}
        self._desk = desk
        self._loop = asyncio.get_running_loop()
        self._patience_until = self._loop.time() + DISCOVERY_S
        if hello.offers is None:
            self._loop.call_later(DISCOVERY_S, self._ready)

    # --- what the transport sees --------------------------------------------------------------------------------

    @property
    def worker(self) -> WorkerId:
        """Whose place it is."""
        return self.hello.worker

    @property
    def in_hand(self) -> int:
        """Tasks that were sent here and are not over, or whose result is not durable yet. 0 after `leave`: the stream may end."""
        return len(self.holding) + self._unrecorded

    def allow(self, count: int) -> None:
        """Credit: that many more tasks may be sent; adds up. It is also how a stopped task's credit comes back, for workers that do not
        claim."""
        self.credit += count
        self._ready()

    def offer(self, offers: tuple[Offer, ...]) -> None:
        """The worker tells (again) what it offers."""
        self.catalogue = Catalogue(offers)
        self._desk.learned(self)
        self._ready()

    def progress(self, task: TaskId, fraction: float | None, details: bytes | None) -> None:
        """A sign of life of a task."""
        held = self.holding.get(task.ref)
        if held is not None:
            self.heard(held, fraction, details)

    def finish(self, task: TaskId, result: Result) -> None:
        """The task ended. `Line.recorded` tells when that is durable; also for tasks that this gateway never saw."""
        self._unrecorded += 1
        self._desk.finished(task, result, lambda: self._recorded(task))

    def refuse(self, task: TaskId, result: Result) -> None:
        """The transport cannot send this task at all: it ends with this result, and the worker never hears of it."""
        self._desk.finished(task, result, lambda: None)
        self.reacted(task)

    def give_back(self, task: TaskId) -> None:
        """The worker will not begin this task: back to the queue."""
        self.reacted(task)
        held = self.holding.get(task.ref)
        if held is not None:
            self.unsent(held)
            self._desk.put_back(held)

    def idle(self, task: TaskId) -> None:
        """The shard has let go of this function, so nobody waits for a result."""
        held = self.holding.get(task.ref)
        if held is not None:
            self._desk.let_go_of(held)

    def answer(self, number: int, answer: bytes) -> None:
        """The worker's word on a question."""
        waiting = self._answers.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def leave(self) -> None:
        """Send nothing more; what runs is finished."""
        self.leaving = True

    def lost(self) -> None:
        """The stream ended. Unclaimed tasks go back to the queue at once; claimed ones stay leased as long as the worker is heard of.
        Idempotent; nothing is called on the line from now on."""
        if not self.gone:
            self.gone = self.leaving = True
            for waiting in self._answers.values():
                if not waiting.done():
                    waiting.set_result(None)
            self._desk.lost(self)

    # --- what the bridge does -----------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether a task may be sent now. A worker that claims gets one more than it may while its pool's tasks are quick: it would
        else idle for a round trip after each claim (docs/adr/0005 has the figures)."""
        return self.credit + (self.hello.claims and self._desk.quick) > 0 and not self.leaving

    @property
    def load(self) -> int:
        """Who has less goes first."""
        return len(self.holding)

    @property
    def undecided(self) -> bool:
        """It may still tell what it offers, in time."""
        return self.catalogue is None and self._loop.time() < self._patience_until

    def find(self, path: str) -> Found | None:
        """What the worker calls the component; None when it does not offer it, or has yet to say so."""
        if self.catalogue is not None:
            return self.catalogue.find(path)
        known = self._desk.known
        found = None if known is None else known.find(path)
        return as_is(path) if found is None and not self.undecided else found

    def take(self, held: Held) -> None:
        """Give it a task, not sent yet."""
        self.credit -= 1
        held.seat = self
        self.holding[held.id.ref] = held

    def brings(self, held: Held) -> None:
        """It runs this already."""
        held.sent = True
        held.seat = self
        self.holding[held.id.ref] = held

    def sending(self, held: Held, found: Found) -> Assigned:
        """What is sent for a task that it was given."""
        task = held.task
        assert task is not None, "what came without a task runs already"
        held.sent = True
        if self.hello.claims:
            self.unclaimed[held.id] = (held, self._loop.time())
        return Assigned(held.id, task, found.name, {**(task.path_params or {}), **found.params}, found.function, held.fresh)

    def granted(self, held: Held) -> None:
        """A task was claimed for it: send it."""
        found = None if held.task is None else self.find(held.task.component)
        if self.gone or found is None:  # the lease stays with this worker, so the task has to wait for its end
            self._desk.give_back(held)
            return
        assigned = self.sending(held, found)
        self._desk.begin(held)
        self.line.send([assigned])

    def heard(self, held: Held, fraction: float | None, details: bytes | None) -> None:
        """It said something about a task that it has."""
        held.heard_at = self._loop.time()
        if fraction is not None:
            held.progress = min(1.0, max(0.0, fraction))
        if details:
            held.details = details

    def reacted(self, task: TaskId) -> None:
        """It said something about a copy that it was sent: the next one may follow."""
        if self.unclaimed.pop(task, None) is not None:
            self.credit += 1
            self._ready()

    def unsent(self, held: Held) -> None:
        """It does not have this task after all."""
        self.released(held)
        held.seat = held.by = None

    def released(self, held: Held) -> None:
        """The task is not its own any more. One that it never heard of gives its credit back."""
        del self.holding[held.id.ref]
        if held.started_at:
            self.begun -= 1
            self._desk.lasted(self._loop.time() - held.started_at)
        if not held.sent:
            self.credit += 1
        self._ready()

    def began(self) -> None:
        """It runs one more."""
        self.begun += 1
        self.most = max(self.most, self.begun)

    def stopped(self, held: Held, why: Why) -> None:
        """The task was ended by somebody else."""
        if held.sent and not self.gone:
            self.line.stop(held.id, why)

    @property
    def asked(self) -> int:
        """Questions that it has not answered."""
        return len(self._answers)

    async def ask(self, question: bytes) -> bytes | None:
        """The worker's answer to a question; None when its stream ended before."""
        self._questions += 1
        number = self._questions
        waiting: asyncio.Future[bytes | None] = self._loop.create_future()
        self._answers[number] = waiting
        self.line.ask(number, question)
        try:
            return await waiting
        finally:
            del self._answers[number]

    def news(self, held: Held) -> None:
        """There may be records for a function that it runs."""
        if held.sent and not self.gone:
            self.line.news(held.id)

    def _recorded(self, task: TaskId) -> None:
        self._unrecorded -= 1
        if not self.gone:
            self.line.recorded([task])

    def _ready(self) -> None:
        if self.has_room:
            self._desk.room(self)
