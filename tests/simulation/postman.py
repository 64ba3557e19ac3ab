"""Letters and events from outside in a scripted world: they come in any order, twice, to runs that sleep, and after the crash of a sender.

What is in the inbox is durable; what the last turn caused may not have got there when its owner dies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.flows import chance, compact, pick
from tests.simulation.script import KEYS, NAME, NEVER, payload

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.letters import Letter
from stepmesh_broker.protocol.messages import EventKept, SendEvent
from stepmesh_orchestrator.core.commands import KeepEvent, TakeLetter
from stepmesh_orchestrator.core.decide.letters import addressee
from stepmesh_orchestrator.core.decide.waits import awaited_of
from stepmesh_orchestrator.core.effects import Answered
from stepmesh_orchestrator.core.state import AWAITING

if TYPE_CHECKING:
    from tests.simulation.driver import World


class Postman:
    """`letters`: in the inbox; `fresh`: those of them that the last turn caused."""

    def __init__(self) -> None:
        self.letters: list[Letter] = []
        self.fresh: list[Letter] = []
        self.sent = 0

    def collect(self, letters: list[Letter]) -> None:
        """What a turn caused."""
        self.letters += letters
        self.fresh = letters

    def lose_fresh(self) -> None:
        """The owner dies before they leave."""
        self.letters = [one for one in self.letters if not any(one is lost for lost in self.fresh)]
        self.fresh = []

    def bring(self, world: World) -> None:
        """Any one of them, perhaps not for the last time. Its run is woken first, or goes to rest again meanwhile."""
        letter = self.letters.pop(world.choices.below(len(self.letters)))
        if chance(world.choices, 25):
            self.letters.append(letter)
        if (run := addressee(letter)) in world.session.state.dormant and run is not None and chance(world.choices, 70):
            world.sleepers.wake(world, run)
        world.send(TakeLetter(letter))

    def send(self, world: World, key: str, namespace: str = "default") -> None:
        """Somebody sends an event; one in four is one that was sent before."""
        again = self.sent and chance(world.choices, 25)
        number = 1 + world.choices.below(self.sent) if again else self.sent + 1
        self.sent = max(self.sent, number)
        known = len(world.session.events)
        event = SendEvent(Namespace(namespace), NAME, key, f"e{number}", compact(payload(key)))
        world.send(KeepEvent(event))
        told = [effect.answer for effect in world.session.effects if isinstance(effect, Answered)][-1]
        assert isinstance(told, EventKept)
        assert not told.existing or len(world.session.events) == known

    def send_any(self, world: World) -> None:
        """To an address that flows wait at."""
        self.send(world, pick(world.choices, KEYS))

    def send_awaited(self, world: World) -> bool:
        """Everything was brought, and something still waits: one more event for it. False when nothing does."""
        for run in world.session.state.runs.values():
            for item in run.items.values():
                for step, phase in enumerate(item.phases):
                    if phase == AWAITING and (key := awaited_of(item, step).key) != NEVER:
                        self.send(world, key, run.namespace)
                        return True
        return False
