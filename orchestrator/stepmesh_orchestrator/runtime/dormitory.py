"""The way back for dormant trees: at their time, or when somebody asks for one. Their images are read from the journal.

Invariant: what is brought back is the image in the frame that the state names, and that frame is durable. Only the shard's decisions change
the state; an image that comes too late is ignored there. An image that cannot be read costs nobody but its runs: they stay dormant.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing

from stepmesh_broker.protocol.ids import FlowId, RunId
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.core.commands import WakeTree
from stepmesh_orchestrator.core.decide.resume import resume_item
from stepmesh_orchestrator.core.dormant import frame_of, wakes_ms_of
from stepmesh_orchestrator.core.events import TreeDormant, decode_turn
from stepmesh_orchestrator.core.evolve.dormancy import flows_of, restore
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import State
from stepmesh_orchestrator.ports import Clock, Journal, JournalError, StoreError
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.inputs import Answer
from stepmesh_orchestrator.runtime.shard import Shard

log = logging.getLogger("stepmesh.dormitory")
AT_ONCE = 200
"""Trees of one turn at most: about 20 ms of it."""
AHEAD_MS = 2_000
"""How long before its time a tree is brought back."""
AGAIN_MS = 15_000
"""When what could not be brought back is tried again."""
LONGEST_SLEEP_S = 60.0
GAP = 32
"""Frames that are read and passed over rather than looked up anew."""

_NONE: frozenset[RunId] = frozenset()


class _Loaded:
    """The flows of some images: the core's look-up."""

    def __init__(self) -> None:
        self.flows: dict[tuple[FlowId, bytes | None], CompiledFlow] = {}

    def get(self, flow: FlowId, overrides: bytes | None = None) -> CompiledFlow | None:
        """One that was loaded."""
        return self.flows.get((flow, overrides))


class Dormitory:
    """Of one shard."""

    def __init__(self, shard: Shard, journal: Journal, flows: FlowRegistry, clock: Clock) -> None:
        self._shard = shard
        self._journal = journal
        self._flows = flows
        self._clock = clock
        for run, place in shard.session.state.dormant.places.items():
            shard.waits.wheel.put(run, wakes_ms_of(place))

    async def run(self) -> None:
        """Bring back what is due, for ever."""
        wheel = self._shard.waits.wheel
        while True:
            wheel.changed.clear()
            due = wheel.due(self._clock.now_ms() + AHEAD_MS, AT_ONCE)
            if due:
                await self._bring_back(due)
            else:
                await self._rest(wheel.next_due())

    async def awake(self, *runs: RunId) -> None:
        """Bring runs back that somebody asks for; at once where none is dormant. Raises `StoreError`."""
        dormant = self._shard.session.state.dormant
        asleep = [run for run in runs if run in dormant]
        if asleep:
            await self._wake(await self._images(asleep))

    async def view(self, run: RunId) -> State | None:
        """A dormant run with its tree, as it would come back, for readers; None when it is not dormant. Raises as `awake`."""
        shard = self._shard
        for command in await self._images([run] if run in shard.session.state.dormant else []):
            state = State(shard.partition)
            state.sequence = shard.sequence
            session = Session(state, self._flows, shard.session.router, shard.session.settings)
            for member in restore(state, command.root, command.image, command.flows):
                for item in member.items.values():
                    resume_item(session, item)
            return state
        return None

    async def _bring_back(self, due: list[RunId]) -> None:
        try:
            await self._wake(await self._images(due))
        except StoreError as problem:
            log.warning("dormant runs wait for their flows: %s", problem)
        state = self._shard.session.state
        for run in due:
            if run in state.dormant:
                self._shard.waits.wheel.put(run, self._clock.now_ms() + AGAIN_MS)

    async def _rest(self, until_ms: int | None) -> None:
        seconds = LONGEST_SLEEP_S if until_ms is None else (until_ms - AHEAD_MS - self._clock.now_ms()) / 1000
        ring = asyncio.ensure_future(self._clock.sleep(min(max(0.001, seconds), LONGEST_SLEEP_S)))
        news = asyncio.ensure_future(self._shard.waits.wheel.changed.wait())
        try:
            await asyncio.wait((ring, news), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ring.cancel()
            news.cancel()

    async def _wake(self, commands: list[WakeTree]) -> None:
        """Until they are decided on, so that a flood waits here and not in the shard's turn."""
        answers: list[asyncio.Future[Answer]] = []
        for command in commands:
            answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._shard.post(command, answer)
            answers.append(answer)
        for told in await asyncio.gather(*answers):
            if isinstance(told, Refused):
                log.warning("a dormant run is not back: %s %s", told.code, told.message)

    async def _images(self, runs: Iterable[RunId]) -> list[WakeTree]:
        """What brings the trees of these runs back; those that are dormant no more by then are left out."""
        shard, wanted = self._shard, defaultdict[int, set[RunId]](set)
        for run in runs:
            place = shard.session.state.dormant.places.get(run)
            if place is not None:
                wanted[frame_of(place)].add(run)
        while wanted and max(wanted) > shard.sequence:  # it is being appended
            if shard.closed is not None:
                return []
            await shard.settled()
        loaded, found = _Loaded(), list[WakeTree]()
        for frames in _stretches(sorted(wanted)):
            found += await self._readable(frames, wanted, loaded)
        return found

    async def _readable(self, frames: list[int], wanted: Mapping[int, set[RunId]], loaded: _Loaded) -> list[WakeTree]:
        try:
            return await self._stretch(frames, wanted, loaded)
        except JournalError as problem:
            if len(frames) > 1:
                return [command for frame in frames for command in await self._readable([frame], wanted, loaded)]
            named = ", ".join(sorted(wanted[frames[0]])[:10])
            log.error("SM-5122 dormant runs cannot be brought back (%s): %s %s", named, problem.code, problem.message)
            return []

    async def _stretch(self, frames: list[int], wanted: Mapping[int, set[RunId]], loaded: _Loaded) -> list[WakeTree]:
        found: list[WakeTree] = []
        async with aclosing(self._read(frames[0], frames[-1])) as events:
            async for frame, left in events:
                if not wanted.get(frame, _NONE).isdisjoint((left.run, *left.others)):
                    await self._load(left, loaded)
                    found.append(WakeTree(left.run, frame, left.image, loaded))
        return found

    async def _read(self, first: int, last: int) -> AsyncGenerator[tuple[int, TreeDormant], None]:
        async for frame in self._journal.read(self._shard.partition, after=first - 1):
            for event in decode_turn(frame.payload).events:
                if isinstance(event, TreeDormant):
                    yield frame.sequence, event
            if frame.sequence >= last:
                return

    async def _load(self, left: TreeDormant, loaded: _Loaded) -> None:
        for flow, overrides in flows_of(left.image):
            if (flow, overrides) not in loaded.flows:
                compiled = await self._flows.load(flow, overrides)
                if compiled is None:
                    raise StoreError(
                        f"run {left.run} is dormant and needs flow {flow}, which the store does not have",
                        code="SM-5121",
                        hint="restore the store that belongs to this journal",
                    )
                loaded.flows[flow, overrides] = compiled


def _stretches(frames: list[int]) -> Iterator[list[int]]:
    """Frames that lie near each other are read in one go."""
    start = 0
    for index in range(1, len(frames) + 1):
        if index == len(frames) or frames[index] - frames[index - 1] > GAP:
            yield frames[start:index]
            start = index
