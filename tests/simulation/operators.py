"""What people do to runs of a scripted world: pause and resume them, end sleeps, fork what has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
from tests.simulation.flows import Case, chance, compact, pick
from tests.simulation.script import VALUES

from stepmesh_broker.protocol.ids import RunId, child_run_id
from stepmesh_broker.protocol.messages import Accepted, Refused, TaskRef
from stepmesh_orchestrator.core.commands import PauseRun, ResumeRun, StartRun, WakeSteps
from stepmesh_orchestrator.core.events import RunCreated, RunSeeded
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.reuse import Given, nothing, past_of, restarted, seeds_of
from stepmesh_orchestrator.core.rows import ItemRow, RunRow
from stepmesh_orchestrator.core.seeds import Seed, SeededRun
from stepmesh_orchestrator.core.state import SLEEPING

if TYPE_CHECKING:
    from tests.simulation.driver import World


class Operators:
    """`forks`: runs that began with results of others; `reused`: how many results in all; `inherited`: sub-runs with results."""

    def __init__(self) -> None:
        self.forks: set[RunId] = set()
        self.reused = self.inherited = 0

    def options(self, world: World) -> Iterable[Callable[[], None]]:
        """What may be done now."""
        paused = self.paused(world)
        if world.is_alive and chance(world.choices, 5 if paused else 30):
            yield world.pause_any
        if paused:
            yield from [world.resume_any] * 3
        if self.asleep(world):
            yield world.skip_sleep
        if len(world.runs) < 4 and self.sources(world):
            yield world.fork_any

    def paused(self, world: World) -> list[RunId]:
        """Trees that do not go on by themselves."""
        return [root for root, tree in world.session.state.trees.items() if tree.paused_ms]

    def asleep(self, world: World) -> list[TaskRef]:
        """Sleeps of live runs."""
        return list(self.dues(world))

    def dues(self, world: World) -> dict[TaskRef, int]:
        """When they end."""
        items = (item for run in world.session.state.runs.values() for item in run.items.values())
        return {
            TaskRef(item.run.id, item.index, step, item.attempt(step)): item.wait(step).due_ms
            for item in items
            for step, phase in enumerate(item.phases)
            if phase == SLEEPING
        }

    def sources(self, world: World) -> list[RunId]:
        """Ended root runs, as the read model shows them."""
        ended = {row.run for row in world.rows if isinstance(row, RunRow) and row.finished_ms is not None}
        return [run for run, command in world.submissions.items() if run in ended and command.submit.parent is None]

    def pause_any(self, world: World) -> None:
        """A tree; a sub-run is refused, a dormant one must be woken first."""
        state = world.session.state
        run = pick(world.choices, [*state.trees, *state.runs, *state.dormant.places])
        if run in state.dormant:
            world.send(PauseRun(run, "wait"))
            assert self._refused(world) == "SM-5120"
            world.sleepers.wake(world, run)
        known = len(world.session.events)
        tree = world.session.state.trees.get(run)
        paused = tree is not None and bool(tree.paused_ms)
        world.send(PauseRun(run, "wait"))
        if tree is None:
            assert self._refused(world) == "SM-5220"
        else:
            assert world.last_answer() == Accepted(run, existing=paused)
        assert len(world.session.events) == known + (tree is not None and not paused), "a pause changes nothing else"

    def resume_any(self, world: World) -> None:
        """It goes on; once more changes nothing."""
        root = pick(world.choices, self.paused(world))
        world.send(ResumeRun(root))
        assert world.last_answer() == Accepted(root)
        if root in world.session.state.trees:
            known = len(world.session.events)
            world.send(ResumeRun(root))
            assert len(world.session.events) == known

    def skip_sleep(self, world: World) -> None:
        """One; twice is as good as once."""
        task = pick(world.choices, self.asleep(world))
        due_ms = world.session.state.runs[task.run].items[task.item].wait(task.step).due_ms
        world.send(WakeSteps(task.run, [task]))
        assert world.last_answer() == Accepted(task.run, existing=due_ms <= world.session.now)
        known = len(world.session.events)
        world.send(WakeSteps(task.run, [task]))
        assert len(world.session.events) == known

    def fork_any(self, world: World) -> None:
        """With another input or other variables, perhaps: its results are those that the oracle knows of a run on these."""
        source = pick(world.choices, self.sources(world))
        case, message = world.runs[source], world.submissions[source].submit
        flow = world.store.load(message.flow)
        assert flow is not None
        name = RunId(f"0190{len(world.runs):04x}-0000-7000-8000-000000000000")
        changed = self._changed(world, case)
        variables = None if changed.variables is None else compact(changed.variables)
        submit = msgspec.structs.replace(message, run=name, run_key=None, inputs=list(map(compact, changed.inputs)), variables=variables)
        from_step = world.choices.below(len(flow.steps)) if flow.steps and chance(world.choices, 50) else None
        taken = _Taken(world, name)
        seeds = taken.seeds(message.run, submit.inputs, (flow, submit.variables), from_step)
        command = StartRun(submit, flow, RunSeeded(name, source, list(range(len(seeds))), seeds, taken.below))
        world.send(command)
        assert world.last_answer() == Accepted(name)
        world.runs[name], world.submissions[name] = changed, command
        self.forks.add(name)
        self.reused += sum(map(len, seeds))
        self.inherited += len(taken.below)

    def _changed(self, world: World, case: Case) -> Case:
        choices, others = world.choices, [value for one in world.runs.values() for value in one.inputs]
        inputs = [pick(choices, [*others, *VALUES]) if chance(choices, 30) else value for value in case.inputs]
        variables = {name: pick(choices, VALUES) for name in ("given", "declared")} if chance(choices, 20) else case.variables
        return replace(case, inputs=inputs, variables=variables)

    def _refused(self, world: World) -> str:
        answer = world.last_answer()
        assert isinstance(answer, Refused)
        return answer.code


class _Taken:
    """What the run `name` takes over of another one, from the journal and the rows."""

    def __init__(self, world: World, name: RunId) -> None:
        self.name = name
        self.below: list[SeededRun] = []
        self._store = world.store
        self._created = {event.run: event for event in world.journaled() if isinstance(event, RunCreated)}
        self._rows = {(row.run, row.item): row for row in world.rows if isinstance(row, ItemRow)}

    def seeds(
        self, source: RunId, inputs: list[bytes], now: tuple[CompiledFlow, bytes | None], from_step: int | None, name: RunId | None = None
    ) -> list[list[Seed]]:
        """Of each item."""
        created, found = self._created[source], list[list[Seed]]()
        flow = self._store.load(created.flow, created.overrides)
        assert flow is not None
        for index, value in enumerate(inputs):
            row = self._rows.get((source, index))
            past = nothing(flow) if row is None else past_of(row, len(flow.steps))
            given = Given.of(flow, created.inputs[index], created.variables, past.outcomes)
            found.append(seeds_of(given, past.defaulted, Given.of(now[0], value, now[1]), from_step))
            for old, new in restarted(past, flow, now[0], found[-1], from_step):
                self._sub_runs(source, f"{index}/{old}/{past.attempts[old]}", name or self.name, f"{index}/{new}/1")
        return found

    def _sub_runs(self, source: RunId, was: str, name: RunId, will: str) -> None:
        ordinal = 0
        while (created := self._created.get(child_run_id(source, f"{was}/{ordinal}"))) is not None:
            flow, child = self._store.load(created.flow, created.overrides), child_run_id(name, f"{will}/{ordinal}")
            assert flow is not None
            seeds = self.seeds(created.run, created.inputs, (flow, created.variables), None, child)
            self.below.append(SeededRun(child, created.run, created.flow, created.variables, created.inputs, seeds))
            ordinal += 1
