"""One activation of a durable function in a worker: its body is replayed, its local steps are done, and what follows is told turn by turn.

Invariants: a record is delivered to the body only as the shard appended it, or as the shard appends it or else the body is replayed without
it; what a local step gave is told until it is seen in the history; a body that waits for others only is let go of, so that waiting costs no
worker anything but memory that it has to spare. It must not know how turns travel.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from stepmesh import payloads
from stepmesh.context import apart
from stepmesh.durable.activation import Activation
from stepmesh.durable.ahead import Ahead
from stepmesh.durable.attempts import LocalStep
from stepmesh.durable.execution import Execution, State, Turn
from stepmesh.durable.live_bodies import LiveBody
from stepmesh.durable.stale import told
from stepmesh.durable.takeover import place_of, taken_over
from stepmesh.durable.unsaid import Told, Unsaid
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurned
from stepmesh_broker.protocol.histories import Began, Record, Settled, TakenOver, Tried, size_of
from stepmesh_broker.protocol.messages import TaskRef

PATIENCE_S = 0.02
"""A step that takes longer than this (seconds) is told to have begun before it is told to have ended."""
PASSES = 3
"""Of the loop, in which a step that awaits nothing ends; a wait with a time limit costs as much as all of its way to the shard."""
LOOK_S = 15.0
"""While steps go on and nothing is to be told, the shard is asked so often (seconds): a signal of news may have been lost."""
LOCAL_STEPS = 64
"""Local steps of one run that are under way at once."""
KEPT_MS = 5_000
"""A step whose next attempt is due so soon is waited for here; else the worker lets go, and the shard's timer brings the function back."""


class LetGo(Exception):
    """The worker has nothing more to do with this activation, and nothing to say of it."""


class HandedBack(Exception):
    """The worker leaves, and the shard did not take the activation back."""


class Overtaken(Exception):
    """The body went ahead of its history, and something else came before what it did: neither counts."""


class Stuck(StepmeshError):
    """SM-1022: a body waits for something that no record will ever bring."""

    default_code = "SM-1022"


async def drive(activation: Activation) -> Any:
    """What the body returned. Raises what it raised, `LetGo` or `HandedBack`."""
    driver = _Driver(activation)
    try:
        return await driver.run()
    finally:
        driver.close()


class _Driver:
    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        task = activation.task
        self._ref = TaskRef(task.run, task.item, task.step, task.attempt)
        self._driver, self._number = secrets.randbits(53) or 1, 0
        self._waiting = False  # local steps begin when this turn is told
        self._asks_first = False  # each of them may have its result already
        self._base = self._size = 0
        self._unsaid = Unsaid(activation.turn_bytes)
        self._local: Mapping[str, LocalStep] = {}  # steps without a result, as the body knows
        self._ahead = Ahead(activation.ahead_s, activation.turn_bytes)
        self._running: dict[str, asyncio.Task[Settled | Tried | None]] = {}
        self._left_over = False  # local steps that are not begun, because the worker leaves
        self._time = self._began_at = 0.0
        self._places = asyncio.Semaphore(LOCAL_STEPS)
        self._execution: Execution | None = None
        self._set_clock(task.at_ms)

    async def run(self) -> Any:
        body = self._replayed() if self._activation.live is None else self._resumed(self._activation.live)
        while True:
            try:
                return await self._driven(*await body)
            except Overtaken:
                self.close()
                self._unsaid, self._left_over, self._size = Unsaid(self._activation.turn_bytes), False, 0
                self._ahead.overtaken = True
                body = self._replayed()

    async def _driven(self, execution: Execution, turn: Turn) -> Any:
        while turn.state is State.IDLE:
            self._take(turn)
            turn = self._turned(execution, await self._onwards())
        if turn.state is State.DIVERGED:
            while True:  # until the shard lets go: records that came meanwhile change nothing
                await self._tell(idle=True, blocked=str(turn.divergence))
        self._take(turn)
        return await self._end(turn)

    def _begun(self, began: Began, records: Sequence[Record]) -> Execution:
        begin = self._activation.begin
        before = taken_over(records)
        if not before:
            return begin(began.at_ms, recorded=began.version)
        return begin(began.at_ms, recorded=began.version, place=place_of(records), before=before)

    def close(self) -> None:
        """Nothing of it runs any more."""
        running, self._running = self._running, {}  # so that they know who cancels them
        for task in running.values():
            task.cancel()
        if self._execution is not None:
            self._execution.drop()
            self._execution = None

    async def _replayed(self) -> tuple[Execution, Turn]:
        records = await self._after(0)
        self._base = len(records)
        began = next((record for record in records if isinstance(record, Began)), None)
        if began is None:  # it is new, though it may have been told something already
            began = Began(self._activation.task.at_ms, self._activation.version)
            self._unsaid.records.append(began)
        self._asks_first = any(isinstance(record, TakenOver) and record.kept for record in records)
        execution = self._execution = self._begun(began, records)
        return execution, self._turned(execution, [record for record in records if record is not began])

    async def _resumed(self, live: LiveBody) -> tuple[Execution, Turn]:
        """The body is alive: it gets what the history has since."""
        self._execution, self._size, self._asks_first = live.execution, live.size, live.asks_first
        news = await self._after(live.base)
        self._base = live.base + len(news)
        return live.execution, self._turned(live.execution, news)

    def _turned(self, execution: Execution, records: Sequence[Record]) -> Turn:
        if self._activation.keep is not None:
            self._size += sum(map(size_of, records))
        return apart(lambda: execution.turn(records))

    async def _after(self, base: int) -> list[Record]:
        """The history from there on, as the journal has it now. What came along with the task may be old: it may have been sent long ago,
        or come again."""
        found = self._activation.carried(base)
        is_fresh = self._activation.is_fresh and not self._ahead.overtaken
        if is_fresh and base + len(found) == self._activation.task.records and self._is_own(found):
            return found
        return found + await self._since(base + len(found), self._activation.version)

    async def _since(self, base: int, version: str = "") -> list[Record]:
        """The history from there on, of the shard. `version`: said by who may still be told that another worker is to have it."""
        found: list[Record] = []
        while True:
            answer = await self._asked(FunctionTurn(self._ref, self._driver, 0, base + len(found), version=version))
            found += answer.records or []
            if not answer.more:
                return found

    def _is_own(self, records: Sequence[Record]) -> bool:
        """Whether they began with the code that is here; with other code the shard may know a better worker."""
        began = next((record for record in records if isinstance(record, Began)), None)
        return began is None or began.version in ("", self._activation.version)

    def _take(self, turn: Turn) -> None:
        """Keep what is to be told, begin the local steps, stop those that nobody waits for. Where something for others is to be told, that
        comes first: a step may hand out what they find only then, such as the token of a promise."""
        self._local = turn.local
        self._unsaid.records += turn.commands
        urgent = self._is_urgent()
        begins = turn.state is State.IDLE and not urgent
        due = [(id, step) for id, step in turn.local.items() if step.due_ms - self._now_ms() <= KEPT_MS] if begins else []
        leaving = self._activation.leaving.is_set()
        ended = self._unsaid.ended() if due else set[str]()
        for id, step in due:
            if id in self._running or id in ended:
                continue
            if leaving:
                self._left_over = True
            else:
                self._running[id] = asyncio.create_task(self._do(step), name=f"stepmesh step {id}")
        for id in turn.abandoned:
            if id in self._running:
                self._running.pop(id).cancel()
        self._waiting = urgent and bool(turn.local)
        self._unsaid.give_up(turn.abandoned)

    async def _do(self, step: LocalStep) -> Settled | Tried | None:
        """None when it was not begun, because the worker leaves."""
        leaving = self._activation.leaving
        await _pause(max(0, step.due_ms - self._now_ms()) / 1000, leaving)
        async with self._places:
            if leaving.is_set():
                return None
            return await step.once(self._now_ms, lambda: step.command.id in self._running)

    def _now_ms(self) -> int:
        """By the orchestrator's clock, as far as it is known."""
        return round(self._time + (asyncio.get_running_loop().time() - self._began_at) * 1000)

    def _set_clock(self, at_ms: int) -> None:
        self._time, self._began_at = float(at_ms), asyncio.get_running_loop().time()

    # --- telling ----------------------------------------------------------------------------------------------------

    async def _onwards(self) -> list[Record]:
        """Wait until there is something to tell or to hear; tell it; what the history has now that the body has not seen."""
        is_some = await self._something()
        is_called = self._activation.news.is_set()
        self._collect()
        if not self._running and not self._unsaid.records and self._execution is not None and not self._execution.waits:
            raise Stuck(
                "the workflow waits for something that no record will bring",
                hint="await steps, sleeps, events and what is made of them; a bare future of one's own has nobody who sets it",
            )
        if self._left_over and not self._running:
            await self._hand_back()
        if not is_some:
            return self._heard(await self._since(self._base))
        if not is_called and self._goes_ahead():
            return self._unsaid.hear()
        return await self._tell(idle=not self._running and not self._waiting and not self._left_over and not self._unsaid.ended())

    def _goes_ahead(self) -> bool:
        """Whether the body gets what came of its steps before it is told."""
        if not self._activation.ahead_s or self._left_over or not self._may_repeat() or self._is_urgent():
            return False
        return self._ahead.may_have(self._unsaid.new(), asyncio.get_running_loop().time(), is_first=not self._unsaid.heard)

    async def _hand_back(self) -> NoReturn:
        """Another worker does what is left over."""
        leaving = False
        while not leaving:
            leaving = self._unsaid.fits()
            await self._tell(idle=False, leaving=leaving)
        raise HandedBack

    async def _something(self) -> bool:
        """False when nothing came for long."""
        if not self._running or self._is_urgent():
            return True
        return await self._moved(PATIENCE_S) or bool(self._unsaid) or await self._moved(LOOK_S)

    def _may_repeat(self) -> bool:
        """Whether all that is under way may be done again. Nothing may within a saga: what the history does not know is not undone."""
        in_saga = self._execution is not None and self._execution.sagas
        return not in_saga and all(step.plan.idempotent for step in self._local.values())

    def _is_urgent(self) -> bool:
        """Whether what the body issued is to be told before any step begins: others are to hear of it, or the body went ahead, and comes to
        a step that may not be done again."""
        if self._unsaid.heard and not self._may_repeat():
            return True
        return self._unsaid.is_urgent(asks_first=self._asks_first)

    async def _moved(self, timeout_s: float) -> bool:
        """Whether a local step ended or there may be news, in that time."""
        news = self._activation.news
        for _ in range(PASSES):
            if news.is_set() or any(task.done() for task in self._running.values()):
                return True
            await asyncio.sleep(0)
        heard = asyncio.ensure_future(news.wait())
        try:
            done, _ = await asyncio.wait([*self._running.values(), heard], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            heard.cancel()
        return bool(done)

    def _collect(self) -> None:
        """What ended of the local steps is to be told."""
        self._activation.news.clear()
        for id, task in list(self._running.items()):
            if task.done():
                del self._running[id]
                record = task.result()
                if record is None:
                    self._left_over = True
                else:
                    self._unsaid.records.append(record)

    async def _tell(self, *, idle: bool, blocked: str = "", continued: bytes | None = None, leaving: bool = False) -> list[Record]:
        exact = self._unsaid.heard > 0
        said = self._unsaid.take()
        idle = idle and not self._unsaid and not exact
        self._number += 1
        version = self._activation.version
        answer = await self._asked(
            FunctionTurn(
                self._ref, self._driver, self._number, self._base, said.records, said.given_up, idle, blocked, continued, leaving, version,
                exact,
            )
        )  # fmt: skip
        self._set_clock(answer.at_ms)
        if answer.left:
            if answer.records is None and idle and not blocked:
                self._keep(said.records)
            raise LetGo
        return self._heard(await self._appended(said, answer, exact=exact), said.heard)

    async def _appended(self, said: Told, answer: FunctionTurned, *, exact: bool) -> list[Record]:
        """What the history has from the base on. Raises `Overtaken`."""
        if answer.records is None:
            news = said.records if exact else [_dated(record, answer.at_ms) for record in said.records]
        else:
            news = answer.records
        if answer.more:
            news = news + await self._since(self._base + len(news))
        if exact and news[: len(said.records)] != said.records:
            raise Overtaken
        self._ahead.overtaken = False
        return news

    def _heard(self, news: list[Record], known: int = 0) -> list[Record]:
        """What of it the body is to get; it has so many of them."""
        self._base += len(news)
        return [record for record in news[known:] if not isinstance(record, Began)]

    def _keep(self, sent: list[Record]) -> None:
        """The shard has let go, and `sent` is what its history ends with: commands, which move no body."""
        execution, keep = self._execution, self._activation.keep
        if execution is None or keep is None:
            return
        turn = self._turned(execution, [record for record in sent if not isinstance(record, Began)])
        if turn.state is State.IDLE and not turn.commands:
            self._execution = None
            keep(LiveBody(execution, self._base + len(sent), self._driver, self._size, self._asks_first))

    async def _asked(self, turn: FunctionTurn) -> FunctionTurned:
        answer = await self._activation.sequencer.take(turn)
        if answer.gone:
            told(self._activation.identity, self._activation.where, turn, answer)
            raise LetGo
        return answer

    # --- ending -----------------------------------------------------------------------------------------------------

    async def _end(self, turn: Turn) -> Any:
        """What was issued last is to be in the history; a body that asked for nothing at all needs none."""
        unheard = 0 if self._execution is None else self._execution.unheard
        heard = self._base - unheard
        while self._unsaid.heard:  # else what is told next may stand behind others' records
            news = await self._tell(idle=False)
            heard = self._base - len(news) - unheard
        while len(self._unsaid.records) > (0 if self._base else 1):
            await self._tell(idle=False)
        if turn.state is State.CONTINUED:
            self._base = heard  # what the body did not hear of is for the next one
            await self._tell(idle=False, continued=payloads.write(turn.value))
        if turn.error is not None:
            raise turn.error
        if turn.state is State.CANCELLED:
            raise asyncio.CancelledError
        return turn.value


async def _pause(seconds: float, leaving: asyncio.Event) -> None:
    if not seconds:
        await asyncio.sleep(0)
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(leaving.wait(), seconds)


def _dated(record: Record, at_ms: int) -> Record:
    """As the shard appended it."""
    if isinstance(record, Settled):
        return Settled(record.id, at_ms, record.value, record.failure, record.attempt)
    if isinstance(record, Tried):
        return Tried(record.id, at_ms, record.attempt, record.failure, at_ms + record.due_ms - record.at_ms)
    return record
