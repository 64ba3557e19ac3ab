"""What runs began with and what became of their items, for a run that takes results over: from the journal, the read model and memory.

Invariant: nothing is decided here and nothing changed. Sub-runs are found by their ids, which follow from the step that started them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec import structs

from stepmesh_broker.protocol.histories import size_of
from stepmesh_broker.protocol.ids import RunId, child_run_id
from stepmesh_orchestrator.core.events import RunCreated, decode_turn
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.function_reuse import PastFunction, results_of, seed_of
from stepmesh_orchestrator.core.reuse import (
    Given,
    Past,
    begun_again,
    input_of,
    nothing,
    past_of,
    past_of_live,
    restarted,
    seeds_of,
)
from stepmesh_orchestrator.core.rows import ItemRow, RunRow
from stepmesh_orchestrator.core.seeds import FunctionSeed, Seed, SeededRun
from stepmesh_orchestrator.ports import JournalTrimmed
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.function_pasts import Place, past_functions
from stepmesh_orchestrator.runtime.run_view import RunView

PAGE = 1_000
"""Rows that are read at once."""
AT_ONCE = 50
"""Items that are compared without a pause."""


class Origin(NamedTuple):
    """A run that has results to give: as it is now, how it began, and its flow with its overrides."""

    run: RunRow
    created: RunCreated
    flow: CompiledFlow


class Sources:
    """Over what this process knows."""

    def __init__(self, view: RunView, flows: FlowRegistry) -> None:
        self._view = view
        self._flows = flows

    async def created(self, run: RunRow) -> RunCreated | None:
        """How it began, as its frame says; None when that frame was trimmed."""
        try:
            async for frame in self._view.ports.journal.read(run.partition, after=run.created_sequence - 1):
                events = decode_turn(frame.payload).events
                return next((one for one in events if isinstance(one, RunCreated) and one.run == run.run), None)
        except JournalTrimmed:
            pass
        return None

    async def origin(self, name: RunId) -> Origin | None:
        """None for a run that is not known, or of which too little is known any more."""
        run = await self._view.row(name)
        created = None if run is None else await self.created(run)
        flow = None if created is None else await self._flows.load(created.flow, created.overrides)
        return None if run is None or created is None or flow is None else Origin(run, created, flow)

    async def functions(self, run: RunRow, items: Collection[int]) -> Mapping[Place, PastFunction]:
        """Durable functions of these items, by item and step. None of a run whose beginning was trimmed."""
        return await past_functions(self._view.ports.journal, run, items) or {}

    def now_ms(self) -> int:
        """By this process."""
        return self._view.ports.clock.now_ms()

    async def succeeded(self, run: RunRow) -> AsyncIterator[int]:
        """Items that have a result, by index."""
        async for row in self._rows(run, 0, run.total):
            if row.status == "success":
                yield row.item

    async def past(self, origin: Origin, items: Sequence[int]) -> Mapping[int, Past]:
        """Of those of the items that have begun."""
        wanted, run = set(items), origin.run
        live = await self._view.live(run.run)
        found = {} if live is None else {item.index: past_of_live(item) for item in live.run.items.values() if item.index in wanted}
        await self._view.projected()
        async for row in self._rows(run, min(items, default=0), max(items, default=-1) + 1):
            if row.item in wanted:
                found[row.item] = past_of(row, len(origin.flow.steps))
        return found

    async def _rows(self, run: RunRow, first: int, behind: int) -> AsyncIterator[ItemRow]:
        """Ended items by index."""
        while first < behind:
            rows = await self._view.ports.store.get_items(run.run, first, min(PAGE, behind - first))
            for row in rows:
                if row.item < behind:
                    yield row
            if not rows:
                return
            first = rows[-1].item + 1


class TooMuch(Exception):
    """More than one run may take over. `items`: how many of its items fitted."""

    def __init__(self, items: int) -> None:
        self.items = items
        super().__init__(f"{items} items")


@dataclass(frozen=True, slots=True)
class From:
    """What is to run again: a step of the flow, with all that depends on it; of a durable function only from `command` on."""

    step: int | None = None
    command: str | None = None


class Takeover:
    """Of one new run. `below`: what its sub-runs take over; `functions`: its durable functions. `limit`: bytes of inputs and results in
    all."""

    def __init__(self, sources: Sources, limit: int) -> None:
        self.below: list[SeededRun] = []
        self.functions: list[FunctionSeed] = []
        self._sources = sources
        self._left = limit
        self._items = 0

    async def seeds(self, origin: Origin, name: RunId, items: Sequence[int], now: Sequence[Given], start: From) -> list[list[Seed]]:
        """What items of the run `name`, which are as `now` says, take over from these `items` of `origin`. Raises `TooMuch`."""
        past, created, before = await self._sources.past(origin, items), origin.created, origin.flow
        found: list[list[Seed]] = []
        for place, index in enumerate(items):
            known = past.get(index) or nothing(before)
            given = Given.of(before, created.inputs[index], created.variables, known.outcomes)
            seeds = seeds_of(given, known.defaulted, now[place], start.step)
            self._take(len(now[place].input) + sum(len(seed.output or b"") for seed in seeds))
            for old, new in restarted(known, before, now[place].flow, seeds, start.step):
                await self._sub_runs(origin.run.run, f"{index}/{old}/{known.attempts[old]}", name, f"{place}/{new}/1")
            found.append(seeds)
            self._items += origin.run.run == origin.run.root
            if place % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        if origin.run.run == origin.run.root:
            await self._functions(origin, items, past, [(given.flow, seeds) for given, seeds in zip(now, found, strict=True)], start)
        return found

    async def _functions(
        self, origin: Origin, items: Sequence[int], past: Mapping[int, Past], now: Sequence[tuple[CompiledFlow, list[Seed]]], start: From
    ) -> None:
        """The journal is read only where a step may have been one."""
        before, wanted = origin.flow, dict[Place, tuple[int, int]]()
        for place, index in enumerate(items):
            flow, seeds = now[place]
            known = past.get(index) or nothing(before)
            for old, new in begun_again(known, before, flow, seeds, start.step, within=start.command is not None):
                wanted[index, old] = place, new
        known_functions = await self._sources.functions(origin.run, {index for index, _ in wanted}) if wanted else {}
        for (index, old), (place, new) in wanted.items():
            function = known_functions.get((index, old))
            given = Given.of(before, origin.created.inputs[index], origin.created.variables, past[index].outcomes)
            value = None if function is None else input_of(before.steps[old], given)
            if function is not None and value is not None:
                again = start.command if new == start.step else None
                where = f"{origin.run.run}.{index}.{old}"
                self._plant(structs.replace(seed_of(function, place, value, where, self._sources.now_ms(), again), step=new))

    def _plant(self, seed: FunctionSeed) -> None:
        self._take(sum(map(size_of, seed.records)) + sum(len(one.value) for one in seed.kept))
        self.functions.append(seed)

    @property
    def reused(self) -> int:
        """Results of commands that functions have at hand."""
        return sum(map(results_of, self.functions))

    async def _sub_runs(self, run: RunId, was: str, name: RunId, will: str) -> None:
        """Those of a step, one after the other, as far as there were any."""
        ordinal = 0
        while (origin := await self._sources.origin(child_run_id(run, f"{was}/{ordinal}"))) is not None:
            await self._sub_run(origin, child_run_id(name, f"{will}/{ordinal}"))
            ordinal += 1

    async def _sub_run(self, origin: Origin, name: RunId) -> None:
        created = origin.created
        same = [Given.of(origin.flow, value, created.variables) for value in created.inputs]
        seeds = await self.seeds(origin, name, range(len(same)), same, From())
        self.below.append(SeededRun(name, origin.run.run, created.flow, created.variables, created.inputs, seeds))

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise TooMuch(self._items)
