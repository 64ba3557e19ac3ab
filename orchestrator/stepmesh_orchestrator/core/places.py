"""Places of pools: how many tasks of a pool may be in flight, and who is next while all places are taken.

Invariants: nobody waits while a place is free; of the namespaces that wait each gets as many places as its weight in every round, a
round being one pass over them; within a namespace the order is that of time, where a point of priority is worth `POINT_MS` of
waiting, so that nobody waits for ever. All of it follows from the state and is derived again after a recovery. It must not know how
a step is begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from heapq import heappop, heappush
from itertools import count

from stepmesh_broker.protocol.ids import Namespace, RunId
from stepmesh_orchestrator.core.state import QUEUED, Item

POINT_MS = 3_000
"""Who has one point of priority more goes before whoever came less than this time earlier, in ms."""
Key = tuple[RunId, int, int]
"""Run, item, step."""
Entry = tuple[int, int, Item, int]
"""Rank, number, item, step: the smaller goes first, and no two have one number."""


class Lane:
    """Who waits of one namespace. `credit`: places that are left to it in this round."""

    __slots__ = ("credit", "entries", "in_turn", "waiting", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.credit = 0
        self.waiting = 0
        self.in_turn = False
        self.entries: list[Entry] = []  # a heap, with those in it that have gone since

    def pop(self) -> tuple[Item, int] | None:
        """The first one that has not gone."""
        while self.entries:
            _, _, item, step = heappop(self.entries)
            if is_waiting(item, step):
                return item, step
        return None


class PoolPlaces:
    """Of one pool. `taken` may be above `limit`: a component whose sub-runs ended takes its place again without waiting for one.
    `calling`: whoever is begun now has been called, and need not wait behind others. `held`: see `Places`."""

    __slots__ = ("_numbers", "_turns", "_weights", "calling", "held", "lanes", "limit", "taken", "waiting")

    def __init__(self, limit: int, weights: Mapping[str, int], held: dict[Key, PoolPlaces]) -> None:
        self.limit = limit
        self.held = held
        self.taken = 0
        self.waiting = 0
        self.calling = False
        self.lanes: dict[Namespace, Lane] = {}
        self._weights = weights
        self._turns: deque[Namespace] = deque()
        self._numbers = count()

    def put(self, item: Item, step: int, rank: int) -> None:
        """It waits."""
        namespace = item.run.namespace
        lane = self.lanes.get(namespace)
        if lane is None:
            lane = self.lanes[namespace] = Lane(self._weights.get(namespace, 1))
        heappush(lane.entries, (rank, next(self._numbers), item, step))
        lane.waiting += 1
        self.waiting += 1
        if not lane.in_turn:
            lane.in_turn = True
            self._turns.append(namespace)

    def remove(self, item: Item) -> None:
        """One of its steps waits no more, whatever the reason."""
        self.waiting -= 1
        lane = self.lanes[item.run.namespace]
        lane.waiting -= 1
        if not lane.waiting:
            lane.entries.clear()  # all have gone, and they hold their runs
        if not lane.waiting and not lane.in_turn:
            del self.lanes[item.run.namespace]

    def next(self) -> tuple[Item, int] | None:
        """Whose turn it is; the caller removes it. None when nobody waits."""
        turns = self._turns
        while turns:
            lane = self.lanes[turns[0]]
            found = lane.pop()
            if found is None:
                self._leave(turns.popleft(), lane)
                continue
            lane.credit = (lane.credit or lane.weight) - 1
            if not lane.credit:
                turns.rotate(-1)
            return found
        return None

    def _leave(self, namespace: Namespace, lane: Lane) -> None:
        lane.credit, lane.in_turn = 0, False
        if not lane.waiting:
            del self.lanes[namespace]

    def order(self, namespace: Namespace) -> list[Key]:
        """Who waits of a namespace, the next one first."""
        lane = self.lanes.get(namespace)
        entries = [] if lane is None else sorted(entry for entry in lane.entries if is_waiting(entry[2], entry[3]))
        return [(item.run.id, item.index, step) for _, _, item, step in entries]


class Places:
    """Of all pools of a partition. `held`: who has a place, or waits for one. `vacant`: pools with a free place and somebody who waits.
    `limits`: of pools, used or not; that of any other is `window`."""

    __slots__ = ("held", "limits", "pools", "vacant", "weights", "window")

    def __init__(self, window: int, weights: Mapping[str, int]) -> None:
        self.window = window
        self.weights = weights
        self.limits: dict[str, int] = {}
        self.pools: dict[str, PoolPlaces] = {}
        self.held: dict[Key, PoolPlaces] = {}
        self.vacant: dict[PoolPlaces, None] = {}

    def of(self, pool: str) -> PoolPlaces:
        """Those of a pool."""
        found = self.pools.get(pool)
        if found is None:
            found = self.pools[pool] = PoolPlaces(self.limits.get(pool, self.window), self.weights, self.held)
        return found

    def name_of(self, places: PoolPlaces) -> str:
        """Of the pool that they belong to."""
        return next(name for name, known in self.pools.items() if known is places)


def is_waiting(item: Item, step: int) -> bool:
    """Whether the step of an entry still waits."""
    return item.open and item.phases[step] == QUEUED
