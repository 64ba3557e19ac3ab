"""All that a shard does because of the time: timers of live runs, schedules, trees that become dormant, and when those are to be back.

Soft state beside the session: what is in it follows from the state and from effects, so losing it in a crash is harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core.commands import FireSchedule, FireTimer, RestTree, ServeKeys
from stepmesh_orchestrator.core.dormant import frame_of, wakes_ms_of
from stepmesh_orchestrator.core.effects import CallKeys, SetScheduleTimer, SetTimer, TreeLeft, WakeRun
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.runtime.agenda import Agenda
from stepmesh_orchestrator.runtime.timers import Timers
from stepmesh_orchestrator.runtime.wheel import Drowsy, Wheel

TIMERS_AT_ONCE = 1_000
"""Timers of one turn at most, so that a flood of them holds nothing else up for long; about 60 ms."""
SCHEDULES_AT_ONCE = 100
"""Schedules that are looked at in one turn at most; about 50 ms."""
KEYS_AT_ONCE = 1_000
"""Keys that are looked at in one turn at most; about 10 ms."""
RESTS_AT_ONCE = 200
"""Trees that become dormant in one turn at most; about 10 ms."""
DROWSY_MS = 2_000
"""How long a tree has waited for a far timer when it may become dormant: what is asked of it soon finds it in memory."""
LOOKED_AT_AGAIN_MS = 60_000
"""When a tree that had more to do is looked at again."""


RESTED = 20_000
"""Trees that become dormant between two snapshots at most, or a twentieth of all: in a replay they live once more, and a snapshot of them
is small."""


class Waits:
    """Of one shard. `rested`: trees that became dormant since the last snapshot."""

    def __init__(self, session: Session, published: Callable[[], int]) -> None:
        self._session = session
        self._published = published
        self.timers = Timers()
        self.agenda = Agenda()
        self.drowsy = Drowsy()
        self.wheel = Wheel(self._back_at)
        self.rested = 0
        self.keys = Agenda()

    def carry_out(self, effect: SetTimer | TreeLeft | SetScheduleTimer | WakeRun | CallKeys) -> None:
        """What the core wants because of the time."""
        if isinstance(effect, SetTimer):
            self.set_timer(effect)
        elif isinstance(effect, TreeLeft):
            self.tree_left(effect.root)
        elif isinstance(effect, SetScheduleTimer):
            self.agenda.set(effect.schedule, effect.due_ms)
        elif isinstance(effect, CallKeys):
            self.keys.set(effect.key, effect.due_ms)
        else:  # a dormant run is needed
            self.wheel.hurry(effect.run, self._session.now)

    def set_timer(self, effect: SetTimer) -> None:
        """Of a live run; a far one may let its tree become dormant."""
        session = self._session
        self.timers.set(effect.due_ms, effect.task)
        if effect.due_ms >= session.now + session.settings.dormant_ms:
            run = session.state.runs.get(effect.task.run)
            if run is not None:
                self.drowsy.put(run.tree.root, session.now + DROWSY_MS)

    def tree_left(self, root: RunId) -> None:
        """A tree became dormant."""
        self.rested += 1
        self.timers.void(self._session.state.runs)
        back_ms = self._back_at(root)
        if back_ms is not None:
            self.wheel.put(root, back_ms)

    def due(self) -> Iterator[FireTimer | RestTree | FireSchedule | ServeKeys]:
        """What the time of this turn asks for. Each is to be decided on before the next one is taken."""
        session = self._session
        for key in self.keys.due(session.now, KEYS_AT_ONCE):
            yield ServeKeys(key=key)
        for task in self.timers.due(session.now, TIMERS_AT_ONCE):
            yield FireTimer(task)
        for schedule in self.agenda.due(session.now, SCHEDULES_AT_ONCE):
            yield FireSchedule(schedule)
        for root in self.drowsy.due(session.now, RESTS_AT_ONCE):
            yield RestTree(root, self._published())
            if root in session.state.trees:
                self.drowsy.put(root, session.now + LOOKED_AT_AGAIN_MS)

    def next_due(self) -> int | None:
        """When the next turn is needed, ms since 1970; dormant trees are brought back by others. None: not because of the time."""
        known = self.timers.next_due(), self.agenda.next_due(), self.drowsy.next_due(), self.keys.next_due()
        return min((due for due in known if due is not None), default=None)

    @property
    def many_rested(self) -> bool:
        """Whether a snapshot is due for that."""
        return self.rested > max(RESTED, len(self._session.state.dormant) // 20)

    def move_up(self, through: int) -> None:
        """A snapshot is kept. Those whose images alone keep frames up to `through` are to be woken: they will rest in newer ones."""
        self.rested = 0
        dormant = self._session.state.dormant
        if dormant.first_frame is not None and dormant.first_frame <= through:
            for run in [run for run, place in dormant.places.items() if frame_of(place) <= through]:
                self.wheel.hurry(run, self._session.now)

    def _back_at(self, run: RunId) -> int | None:
        place = self._session.state.dormant.places.get(run)
        return None if place is None else wakes_ms_of(place)
