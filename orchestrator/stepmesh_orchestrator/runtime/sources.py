"""What runs began with and what became of their items, for a run that takes results over: from the journal, the read model and memory.

Invariant: nothing is decided here and nothing changed. Sub-runs are found by their ids, which follow from the step that started them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

from stepmesh_broker.protocol.ids import RunId, child_run_id
from stepmesh_orchestrator.core.events import RunCreated, decode_turn
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.reuse import Given, Past, nothing, past_of, past_of_live, restarted, seeds_of
from stepmesh_orchestrator.core.rows import ItemRow, RunRow
from stepmesh_orchestrator.core.seeds import Seed, SeededRun
from stepmesh_orchestrator.ports import JournalTrimmed
from stepmesh_orchestrator.runtime.flows import FlowRegistry
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


class Takeover:
    """Of one new run. `below`: what its sub-runs take over. `limit`: bytes of inputs and results in all."""

    def __init__(self, sources: Sources, limit: int) -> None:
        self.below: list[SeededRun] = []
        self._sources = sources
        self._left = limit
        self._items = 0

    async def seeds(
        self, origin: Origin, name: RunId, items: Sequence[int], now: Sequence[Given], from_step: int | None
    ) -> list[list[Seed]]:
        """What items of the run `name`, which are as `now` says, take over from these `items` of `origin`. Raises `TooMuch`."""
        past, created, before = await self._sources.past(origin, items), origin.created, origin.flow
        found: list[list[Seed]] = []
        for place, index in enumerate(items):
            known = past.get(index) or nothing(before)
            given = Given.of(before, created.inputs[index], created.variables, known.outcomes)
            seeds = seeds_of(given, known.defaulted, now[place], from_step)
            self._take(len(now[place].input) + sum(len(seed.output or b"") for seed in seeds))
            for old, new in restarted(known, before, now[place].flow, seeds, from_step):
                await self._sub_runs(origin.run.run, f"{index}/{old}/{known.attempts[old]}", name, f"{place}/{new}/1")
            found.append(seeds)
            self._items += origin.run.run == origin.run.root
            if place % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        return found

    async def _sub_runs(self, run: RunId, was: str, name: RunId, will: str) -> None:
        """Those of a step, one after the other, as far as there were any."""
        ordinal = 0
        while (origin := await self._sources.origin(child_run_id(run, f"{was}/{ordinal}"))) is not None:
            await self._sub_run(origin, child_run_id(name, f"{will}/{ordinal}"))
            ordinal += 1

    async def _sub_run(self, origin: Origin, name: RunId) -> None:
        created = origin.created
        same = [Given.of(origin.flow, value, created.variables) for value in created.inputs]
        seeds = await self.seeds(origin, name, range(len(same)), same, None)
        self.below.append(SeededRun(name, origin.run.run, created.flow, created.variables, created.inputs, seeds))

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise TooMuch(self._items)
