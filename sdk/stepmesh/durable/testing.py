"""Workflows in a test: no server, a clock that skips what nobody waits for in person, mocks, failures, events, and replays all the time.

    async with env(order_saga) as t:
        t.mock(charge, returns=Receipt("r1"))
        run = await t.start(order_saga, order)
        await t.until(run, waiting_for=Approval)
        await t.send(Approval(approved=True), key=order.id)
        assert (await run.result()).ok

Every turn replays the body from the beginning, so what a replay would do otherwise fails the test that meets it, and what a step returns is
compared with what the journal makes of it. Invariant: nothing depends on the time of day, or on which test ran before.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from stepmesh import payloads
from stepmesh.durable import rehearsal
from stepmesh.durable.app import App
from stepmesh.durable.doubles import Doubles, Target, name_of
from stepmesh.durable.durations import Duration, seconds
from stepmesh.durable.elsewhere import replay_elsewhere
from stepmesh.durable.endings import Warned
from stepmesh.durable.events import Event
from stepmesh.durable.execution import Execution
from stepmesh.durable.fixtures import History, history
from stepmesh.durable.guards import guarded
from stepmesh.durable.limits import STRICT, Limits
from stepmesh.durable.mailbox import Mailbox
from stepmesh.durable.pools import component_of
from stepmesh.durable.sequencer import BEGAN_MS, Ready, Sequencer
from stepmesh.durable.turns import State, Turn
from stepmesh.durable.workflow import Workflow
from stepmesh.errors import Cancelled, ComponentError
from stepmesh_broker.protocol.histories import CancelAsked, Issued, Kind, Record, UpdateAsked

_MOST = 50_000
"""Records after which a run in a test is taken to go on for ever."""
_SENT: Any = object()


class Run:
    """A run in a test. `rounds`: the histories that it ended with `continue_as_new`, oldest first."""

    def __init__(self, env: Env, workflow: Workflow[..., Any], id: str, input: bytes) -> None:
        self.id = id
        self.workflow = workflow
        self.rounds: list[list[Record]] = []
        self._env = env
        self._sequencer: Sequencer
        self._start(input)

    @property
    def records(self) -> list[Record]:
        """The history as it is."""
        return self._sequencer.records

    @property
    def history(self) -> History:
        """To be kept as a file: `fixtures.dumps(run.history)`."""
        return history(self.id, self.workflow.name, self.workflow.version, self._started_ms, self.input, self.records)

    async def result(self) -> Any:
        """What the body returned, or what it raised; `Cancelled`. Time is skipped as far as the run needs it."""
        while not (turn := await self.advance()):
            pass
        if turn.state is State.CANCELLED:
            raise turn.error or Cancelled(f"run {self.id} was cancelled")
        if turn.error is not None:
            raise turn.error
        self.workflow.written(turn.value)
        return turn.value

    async def advance(self) -> Turn | None:
        """One more record. The last turn when the run is over. Raises `AssertionError` when nothing can happen any more, or on a
        divergence."""
        turn = self._current()
        if turn.state is not State.IDLE:
            return turn
        if not await self._sequencer.step():
            waits = ", ".join(f"{one.kind} {one.name} ({one.where})" for one in self._sequencer.open())
            raise AssertionError(f"run {self.id} waits for ever, for {waits or 'nothing'}: t.send(…), t.settle(…) or t.cancel(run)")
        assert len(self.records) < _MOST, f"run {self.id} has {len(self.records)} records and does not end"
        return None

    async def skip(self, until_ms: int) -> None:
        """Everything that happens up to then."""
        while self._current().state is State.IDLE and await self._sequencer.step(until_ms):
            pass

    def _current(self) -> Turn:
        """Where the body stands, in the round that goes on."""
        while (turn := self.look()).state is State.CONTINUED:
            self.rounds.append(self.records)
            self._start(self.workflow.written(turn.value))
        return turn

    def look(self) -> Turn:
        """Where the body stands. Raises `AssertionError` with the message of a divergence."""
        turn = self._sequencer.look()
        assert turn.divergence is None, str(turn.divergence)
        return turn

    def open(self) -> list[Issued]:
        """What the body waits for."""
        return self._sequencer.open() if self._current().state is State.IDLE else []

    def append(self, make: Callable[[int], Record]) -> None:
        """A record from outside, of the run's present time."""
        self._current()
        self._sequencer.append(make(self._sequencer.now_ms))

    @property
    def now_ms(self) -> int:
        """The run's clock."""
        return self._sequencer.now_ms

    def rehearsed(self) -> rehearsal.Body:
        """For replays of what there is."""
        workflow, input, started_ms, limits, warned = self.workflow, self.input, self._started_ms, self._env.limits, self._warned

        def begin() -> Execution:
            made = workflow.begin(self.id, input, started_ms, recorded=workflow.version, limits=limits)
            made.history.warned = warned
            return made

        return begin

    def _start(self, input: bytes) -> None:
        self.input = input
        self._warned = Warned()
        env = self._env
        self._started_ms = env.now_ms()
        self._sequencer = Sequencer(
            self.rehearsed(), self._remote, env.doubles.local, seed=env.seed, replay=env.always_replay, now_ms=self._started_ms
        )

    def close(self) -> None:
        """The body is put away, if it is alive."""
        self._sequencer.close()

    def _remote(self, command: Issued) -> Ready | None:
        if command.kind in (Kind.CALL, Kind.CHILD):
            return lambda: self._env.doubles.answer(command, self.now_ms)
        return self._env.mailbox.waiting(self.id, command, self._started_ms, lambda: self.now_ms)


class Env:
    """See `env`."""

    def __init__(self, targets: Sequence[App | Workflow[..., Any]], always_replay: bool, seed: int, limits: Limits) -> None:
        self.always_replay = always_replay
        self.seed = seed
        self.limits = limits
        self.doubles = Doubles(self._real)
        self.mailbox = Mailbox()
        self._runs: list[Run] = []
        self._updates = 0
        self._apps = [target for target in targets if isinstance(target, App)]
        self._workflows = {target.path: target for target in targets if isinstance(target, Workflow)}
        self._workflows |= {one.path: one for app in self._apps for one in app.workflows.values()}

    def now_ms(self) -> int:
        """The time of the run that has come furthest; a run that begins now begins after whatever was sent."""
        return max(BEGAN_MS, self.mailbox.latest_ms + 1, *(run.now_ms for run in self._runs))

    async def start(self, workflow: Workflow[..., Any], input: Any = None) -> Run:
        """A run of it; it has run to where it first waits."""
        run = Run(self, workflow, f"01900000-0000-7000-8000-{len(self._runs) + 1:012d}", payloads.write(input))
        self._runs.append(run)
        run.look()
        return run

    def mock(self, target: Target, *, returns: Any = _SENT, calls: Callable[..., Any] | None = None) -> None:
        """`target` is not done: it gives `returns`, or what `calls` gives for its arguments. Of components and flows: their path."""
        self.doubles.mock(target, calls or (lambda *_, **__: None if returns is _SENT else returns))

    def fail(self, target: Target, *, times: int = 1, error: BaseException | None = None) -> None:
        """The next attempts of `target` fail; then it is done as it would be."""
        self.doubles.fail(target, [error or RuntimeError(f"{name_of(target)} was made to fail")] * times)

    async def send(self, event: Event | str, payload: Any = None, *, key: str = "") -> None:
        """An event; it is kept until a run waits for it. By its name with a payload, or as an object."""
        name, value = (event, payload) if isinstance(event, str) else (type(event).__name__, event)
        self.mailbox.send(name, key, payloads.write(value), self.now_ms())

    async def settle(self, token: str, value: Any = None) -> None:
        """Keep a promise. Raises `ValueError` for what is no token."""
        self.mailbox.settle(token, payloads.write(value))

    async def cancel(self, run: Run, reason: str = "") -> None:
        """Ask the run to end."""
        run.append(lambda now_ms: CancelAsked(now_ms, reason))

    async def until(self, run: Run, *, waiting_for: type[Event] | Target) -> Issued:
        """The command that the run waits with. Raises `AssertionError` when it ends before that."""
        name = waiting_for.__name__ if isinstance(waiting_for, type) else name_of(waiting_for)
        while (found := next((one for one in run.open() if one.name == name), None)) is None:
            turn = await run.advance()
            assert turn is None, f"run {run.id} ended ({turn and turn.state}) and did not wait for {name}"
        return found

    async def skip(self, run: Run, duration: Duration) -> None:
        """So much time passes, with what happens meanwhile."""
        await run.skip(run.now_ms + round(seconds(duration) * 1000))

    def query(self, run: Run, name: str, input: Any = None) -> Any:
        """What the body says now. Raises `UnknownHandler`, and what it raises."""
        execution = run.rehearsed()()
        try:
            execution.turn(run.records)
            return msgspec.json.decode(execution.query(name, payloads.write(input)))
        finally:
            execution.drop()

    async def update(self, run: Run, name: str, input: Any = None) -> Any:
        """The reply. Raises `ComponentError` for an update that failed or was refused."""
        self._updates += 1
        id = f"update-{self._updates}"
        run.append(lambda now_ms: UpdateAsked(id, now_ms, name, payloads.write(input)))
        run.look()
        while (reply := _reply(run.records, id)) is None:
            turn = await run.advance()
            run.look()
            assert turn is None, f"run {run.id} ended without a reply to {name}"
        if "error" in reply:
            raise ComponentError(reply["error"]["message"], code=reply["error"]["code"])
        return reply["value"]

    def assert_history(self, run: Run, names: Sequence[str]) -> None:
        """The commands of the run, by name, in the order of the journal."""
        found = [record.name for record in run.records if isinstance(record, Issued)]
        assert found == list(names), f"the history has {found}, expected {list(names)}"

    def crash_at_every_record(self, run: Run) -> None:
        """A worker that ends after any record, and another one that goes on, come to the same end, and do no step twice."""
        rehearsal.crash_at_every_record(run.rehearsed(), run.records)

    def replay_elsewhere(self, run: Run) -> None:
        """The history fits the code in processes with other hashes, too, where sets have other orders. The workflow is one of a module."""
        said = replay_elsewhere(run.workflow, run.history)
        assert not said, said

    def close(self) -> None:
        """Bodies that are alive are put away."""
        for run in self._runs:
            run.close()

    def _real(self, name: str) -> Callable[[bytes], Any] | None:
        for app in self._apps:
            for step in app.steps.values():
                if step.pool and name_of(step) == name:
                    component = component_of(step)
                    return lambda input: component.invoke(component.read(input) if component.read else None, _SENT)
        workflow = self._workflows.get(name)
        return None if workflow is None else lambda input: self._child(workflow, input)

    async def _child(self, workflow: Workflow[..., Any], input: bytes) -> Any:
        return await (await self.start(workflow, msgspec.Raw(input))).result()


@asynccontextmanager
async def env(
    *targets: App | Workflow[..., Any], always_replay: bool = True, seed: int = 0, limits: Limits | None = None
) -> AsyncGenerator[Env, None]:
    """For workflows, or whole apps: then steps of pools and children are done, too, where nothing stands in for them.

    `seed`: which of several ready things comes first. `always_replay=False` keeps bodies alive, as a worker does that has them still."""
    guarded()
    made = Env(targets, always_replay, seed, limits or STRICT)
    try:
        yield made
    finally:
        made.close()


def _reply(records: Sequence[Record], id: str) -> Any:
    found = (one for one in records if isinstance(one, Issued) and one.kind is Kind.REPLY and one.name == id)
    return next((msgspec.json.decode(one.arguments) for one in found), None)
