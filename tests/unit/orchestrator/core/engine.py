"""Given, when, then for the core: a session with an obvious world around it, and short names for what tests do to it.

`submit`, `succeed`, `fail`, `fire`, `resolve` are commands; each returns the events that it caused. Steps go by id.
"""

from __future__ import annotations

import json
from typing import Any

from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId
from stepmesh_broker.protocol.messages import Accepted, ErrorCode, Failure, ParentRef, Refused, Result, Submit, Task, TaskRef
from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.commands import CancelRun, Command, EndTask, FailAttempt, FireTimer, ResolveFlow, StartRun
from stepmesh_orchestrator.core.decide import decide
from stepmesh_orchestrator.core.effects import Answered, Effect, NeedFlow, SetTimer
from stepmesh_orchestrator.core.events import Event
from stepmesh_orchestrator.core.flow.compile import compile_flow, compile_stored
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.flow.routing import default_router
from stepmesh_orchestrator.core.projection import apply
from stepmesh_orchestrator.core.rebuild import rebuild
from stepmesh_orchestrator.core.rows import ItemRow
from stepmesh_orchestrator.core.session import EngineSettings, Session
from stepmesh_orchestrator.core.state import Item, Run, State

NOW = 1_700_000_000_000
ROOT = RunId("01900000-0000-7000-8000-000000000001")


def js(value: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def flow(steps: list[dict[str, Any]], output: Any = None, **more: Any) -> dict[str, Any]:
    """A document."""
    return {"name": "test", "steps": steps, "output": output, **more}


def step(name: str, component: str = "/py/work", input: Any = None, **more: Any) -> dict[str, Any]:
    """A step of a document."""
    return {"id": name, "component": component, "input": input, **more}


def ref(name: str, **more: Any) -> dict[str, Any]:
    """A reference to a step."""
    return {"$step": name, **more}


class Shelf:
    """Compiled flows at hand."""

    def __init__(self) -> None:
        self.compiled: dict[tuple[str, bytes | None], CompiledFlow] = {}
        self.texts: dict[bytes, CompiledFlow | Failure] = {}

    def get(self, flow: FlowId, overrides: bytes | None = None) -> CompiledFlow | None:
        """By id."""
        return self.compiled.get((flow, overrides))

    def by_text(self, document: bytes) -> CompiledFlow | Failure | None:
        """By text."""
        return self.texts.get(document)

    def put(self, document: dict[str, Any], overrides: bytes | None = None) -> CompiledFlow:
        """Compile a document and keep it."""
        compiled, diagnostics = compile_flow(document)
        assert compiled is not None, diagnostics.items
        if overrides is not None:
            compiled = compile_stored(compiled.document, overrides)
        self.compiled[compiled.id, overrides] = compiled
        self.texts[compiled.document] = compiled
        return compiled


class Engine:
    """A session and what came out of it. `new`: the events of the last command."""

    def __init__(self, **settings: Any) -> None:
        self.shelf = Shelf()
        self.session = Session(State(Partition(0)), self.shelf, default_router(), EngineSettings(**settings))
        self.session.now = NOW
        self.journal: list[tuple[int, Event]] = []
        self.positions: list[int] = []  # of the journal's events
        self.new: list[Event] = []
        self.effects: list[Effect] = []
        self.new_effects: list[Effect] = []
        self.tasks: list[Task] = []
        self.run = ROOT

    # --- when ---

    def send(self, command: Command) -> list[Event]:
        """Decide, and take what came out."""
        decide(self.session, command)
        return self.take()

    def take(self) -> list[Event]:
        """What came out since the last time."""
        session = self.session
        self.new, session.events = session.events, []
        self.new_effects, session.effects = session.effects, []
        self.effects += self.new_effects
        first = session.state.at - len(self.new) + 1
        self.journal += [(session.now, event) for event in self.new]
        self.positions += range(first, first + len(self.new))
        self.tasks += [task for tasks in session.tasks.values() for task in tasks]
        session.tasks = {}
        session.state.sequence += bool(self.new)
        return self.new

    def submit(self, document: dict[str, Any], *inputs: Any, run: RunId = ROOT, variables: Any = None, **more: Any) -> list[Event]:
        """Start a run, on null when no input is given. `more`: fields of `Submit`."""
        compiled = self.shelf.put(document, more.get("overrides"))
        texts = [js(value) for value in inputs or (None,)]
        given = None if variables is None else js(variables)
        self.run = run
        namespace = Namespace(more.pop("namespace", "default"))
        return self.send(StartRun(Submit(run, namespace, compiled.id, texts, given, **more), compiled))

    def answer(self) -> Accepted | Refused:
        """The answer to the last command."""
        (answered,) = [effect for effect in self.new_effects if isinstance(effect, Answered)]
        return answered.answer

    def succeed(self, name: str, value: Any = None, *, item: int = 0, attempt: int | None = None, run: RunId | None = None) -> list[Event]:
        """The attempt that is in flight, or another, gave a value."""
        return self.send(EndTask(self._result(name, item, attempt, run, js(value))))

    def fail(
        self,
        name: str,
        code: ErrorCode = ErrorCode.COMPONENT_FAILED,
        message: str = "kaput",
        *,
        item: int = 0,
        run: RunId | None = None,
        **more: Any,
    ) -> list[Event]:
        """The attempt that is in flight failed. `more`: fields of `Failure`."""
        return self.send(EndTask(self._result(name, item, None, run, None, Failure(code, message, **more))))

    def give_up(self, name: str, code: ErrorCode = ErrorCode.UNREACHABLE, *, item: int = 0) -> list[Event]:
        """The runtime lost the attempt in flight."""
        return self.send(FailAttempt(self.task_ref(name, item), Failure(code, "gone")))

    def fire(self, *, early_ms: int = 0) -> list[Event]:
        """The newest timer's time comes."""
        timer = self.timer()
        self.session.now = max(self.session.now, timer.due_ms - early_ms)
        return self.send(FireTimer(timer.task))

    def resolve(self, found: dict[str, Any] | None = None, failure: Failure | None = None) -> list[Event]:
        """The newest flow that was asked for is there, or is not."""
        need = self.need()
        if found is not None:
            compiled = self.shelf.put(found)
            self.shelf.texts[need.document or b""] = compiled
        return self.send(ResolveFlow(need.key, failure))

    def cancel(self, run: RunId | None = None, reason: str = "enough") -> list[Event]:
        """Stop a run."""
        return self.send(CancelRun(run or self.run, reason))

    def restart(self) -> list[Event]:
        """Crash, replay the journal, derive the rest; what came out of that."""
        state = State(self.state.partition)
        for (at_ms, event), position in zip(self.journal, self.positions, strict=True):
            state.at = position - 1
            apply(state, event, at_ms, self.shelf, [])
        state.sequence = self.session.state.sequence
        now, settings = self.session.now, self.session.settings
        self.session = Session(state, self.shelf, default_router(), settings, partitions=self.session.partitions)
        self.session.now = now
        rebuild(self.session)
        return self.take()

    # --- then ---

    @property
    def state(self) -> State:
        """The state."""
        return self.session.state

    def live(self, run: RunId | None = None) -> Run:
        """A live run."""
        return self.state.runs[run or self.run]

    def item(self, index: int = 0, run: RunId | None = None) -> Item:
        """An active item."""
        return self.live(run).items[index]

    def index(self, name: str, run: RunId | None = None) -> int:
        """The index of a step."""
        found = self.live(run).flow.step_index(name)
        assert found is not None
        return found

    def task_ref(self, name: str, item: int = 0, run: RunId | None = None) -> TaskRef:
        """The present attempt of a step."""
        index = self.index(name, run)
        return TaskRef(run or self.run, item, index, self.item(item, run).attempt(index))

    def timer(self) -> SetTimer:
        """The newest timer that was set."""
        return [effect for effect in self.effects if isinstance(effect, SetTimer)][-1]

    def need(self) -> NeedFlow:
        """The newest flow that was asked for."""
        return [effect for effect in self.effects if isinstance(effect, NeedFlow)][-1]

    def dispatched(self) -> list[str]:
        """Ids of the steps that the last command dispatched."""
        return [self.step_id(event) for event in self.new if isinstance(event, events.StepDispatched)]

    def step_id(self, event: Any) -> str:
        """The id of an event's step."""
        return next(task.step_id for task in self.tasks if (task.run, task.item, task.step) == (event.run, event.item, event.step))

    def result(self, item: int = 0, run: RunId | None = None) -> Any:
        """The FlowResult of an ended item."""
        rows = [row for row in self.session.rows if isinstance(row, ItemRow) and (row.run, row.item) == (run or self.run, item)]
        assert len(rows) == 1, f"item {item} has {len(rows)} ends"
        return json.loads(rows[0].result)

    def ended_steps(self, item: int = 0, run: RunId | None = None) -> dict[str, str]:
        """Step id → status of an ended item."""
        (row,) = [row for row in self.session.rows if isinstance(row, ItemRow) and (row.run, row.item) == (run or self.run, item)]
        return {one.step_id: one.status for one in row.steps}

    def _result(
        self, name: str, item: int, attempt: int | None, run: RunId | None, output: bytes | None, failure: Failure | None = None
    ) -> Result:
        reference = self.task_ref(name, item, run)
        return Result(reference.run, item, reference.step, reference.attempt if attempt is None else attempt, output, failure)


def parent_of(task: Task, key: str = "k") -> ParentRef:
    """The reference of a component that starts a sub-run."""
    return ParentRef(RunId(task.root or task.run), task.run, task.item, task.step, key)


def kinds(found: list[Event]) -> list[str]:
    """The names of events, for short assertions."""
    return [type(event).__name__ for event in found]
