"""Trees that leave memory in a scripted world, and what brings them back: the part of the runtime that keeps them, without its clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.flows import chance, pick

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.core.commands import CancelRun, RestTree, WakeTree
from stepmesh_orchestrator.core.dormant import frame_of, wakes_ms_of
from stepmesh_orchestrator.core.effects import SetTimer, TreeLeft
from stepmesh_orchestrator.core.events import TreeDormant, decode_turn
from stepmesh_orchestrator.core.evolve.dormancy import flows_of

if TYPE_CHECKING:
    from tests.simulation.driver import World


class Sleepers:
    """`due`: when which dormant tree is to be back."""

    def __init__(self) -> None:
        self.due: list[TreeLeft] = []

    def adopt(self, world: World) -> None:
        """What a recovery finds: of every dormant run, the sub-runs too."""
        self.due = [TreeLeft(run, wakes_ms_of(place)) for run, place in world.session.state.dormant.places.items()]

    def rest(self, world: World) -> None:
        """Some tree may have nothing to do."""
        root = pick(world.choices, list(world.session.state.trees))
        world.send(RestTree(root, len(world.frames)))

    def left(self, world: World, effect: TreeLeft) -> None:
        """A tree left: its timers are void."""
        self.due.append(effect)
        runs = world.session.state.runs
        world.timers = [timer for timer in world.timers if timer.task.run in runs]

    def next(self, world: World) -> SetTimer | TreeLeft:
        """What is due first."""
        return min([*world.timers, *self.due], key=lambda timer: timer.wakes_ms if isinstance(timer, TreeLeft) else timer.due_ms)

    def wake_any(self, world: World) -> None:
        """Somebody asks for a dormant run, or an older image of a tree turns up late: nothing comes of that one."""
        run = pick(world.choices, list(world.session.state.dormant.places))
        self.wake(world, run)
        if chance(world.choices, 30):
            known = len(world.session.events)
            world.send(world.past_wakes[-1])
            assert len(world.session.events) == known

    def wake(self, world: World, run: RunId) -> None:
        """Read the image of a run's tree, and bring it back."""
        world.commit()
        place = world.session.state.dormant.places.get(run)
        self.due = [due for due in self.due if due.root != run]
        if place is None:  # it was woken otherwise
            return
        frame = frame_of(place)
        events = decode_turn(world.frames[frame - 1]).events
        left = next(event for event in events if isinstance(event, TreeDormant) and run in (event.run, *event.others))
        for flow, overrides in flows_of(left.image):
            world.store.load(flow, overrides)
        command = WakeTree(left.run, frame, left.image, world.store)
        world.past_wakes.append(command)
        self.due = [due for due in self.due if due.root not in (left.run, *left.others)]
        world.send(command)
        assert run in world.session.state.runs

    def cancel(self, world: World, run: RunId) -> None:
        """Nobody cancels what is not in memory."""
        if run in world.session.state.dormant:
            world.send(CancelRun(run, "enough"))
            answer = world.last_answer()
            assert isinstance(answer, Refused)
            assert answer.code == "SM-5120"
            self.wake(world, run)
        world.send(CancelRun(run, "enough"))
