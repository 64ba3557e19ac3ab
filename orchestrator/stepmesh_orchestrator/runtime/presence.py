"""Who works for which pool, from what workers say of themselves. Soft state: it steers sizes and lists, never correctness."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stepmesh_broker.protocol.ids import WorkerId
from stepmesh_broker.protocol.messages import ComponentInfo, Hello
from stepmesh_orchestrator.ports import Clock

SILENT_S = 15.0
"""A worker that was not heard for so long is not counted any more; it says hello every 5 s."""
YOUNG_S = 6.0
"""For so long after this process began, a live worker may not have been heard."""


@dataclass(slots=True)
class Seen:
    """A worker's last word and when it came (monotonic s; wall clock ms)."""

    hello: Hello
    at: float
    at_ms: int


class Presence:
    """Live workers by pool."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._since = clock.monotonic()
        self._pools: dict[str, dict[WorkerId, Seen]] = {}
        self._offered: dict[str, dict[str, ComponentInfo]] = {}  # pool → path → what was said last, also by workers that left
        self._troubles: dict[str, str] = {}

    @property
    def is_young(self) -> bool:
        """Whether there may be workers that were not heard yet."""
        return self.clock.monotonic() < self._since + YOUNG_S

    def hear(self, hello: Hello) -> set[str]:
        """A worker says hello, or goodbye. Paths of durable functions for which there was no such code in the pool until now."""
        workers = self._pools.setdefault(hello.pool, {})
        if hello.stopping:
            workers.pop(hello.worker, None)
            return set()
        before = workers.get(hello.worker)
        fresh = self._fresh(hello) if before is None or before.hello.components != hello.components else set[str]()
        workers[hello.worker] = Seen(hello, self.clock.monotonic(), self.clock.now_ms())
        if before is not None:
            self._withdraw(hello.pool, before.hello)
        self._offered.setdefault(hello.pool, {}).update({component.path: component for component in hello.components})
        self._troubles.pop(hello.pool, None)
        return fresh

    def _fresh(self, hello: Hello) -> set[str]:
        offered = {(one.path, one.version) for one in hello.components if one.version}
        return {path for path, _ in offered.difference((path, version) for pool, path, version in self.functions() if pool == hello.pool)}

    def having(self, pool: str, path: str) -> dict[str, list[WorkerId]]:
        """Live workers of a pool that have a durable function, by the version of their code."""
        found: dict[str, list[WorkerId]] = {}
        for worker, seen in self._pools.get(pool, {}).items():
            for one in seen.hello.components:
                if one.path == path and one.version:
                    found.setdefault(one.version, []).append(worker)
        return found

    def trouble(self, pool: str, text: str) -> None:
        """A process that was started for the pool ended; kept until a worker of the pool is heard."""
        self._troubles[pool] = text

    def troubles(self) -> dict[str, str]:
        """Pool → what was said last."""
        return self._troubles

    def _withdraw(self, pool: str, before: Hello) -> None:
        """Forget what a worker offered, and neither it nor another one offers any more."""
        offered = {component.path for seen in self._pools[pool].values() for component in seen.hello.components}
        for component in before.components:
            if component.path not in offered:
                self._offered[pool].pop(component.path, None)

    def workers(self, pool: str) -> int:
        """Live workers of a pool, as far as is known."""
        return len(self._pools.get(pool, ()))

    def seen(self, pool: str) -> list[Seen]:
        """Live workers of a pool."""
        return list(self._pools.get(pool, {}).values())

    def pools(self) -> list[str]:
        """Pools that have or had workers."""
        return sorted(self._pools)

    def functions(self) -> Iterator[tuple[str, str, str]]:
        """Durable functions that live workers have: pool, path, version of the code. One that several have comes several times."""
        for pool, workers in self._pools.items():
            for seen in workers.values():
                yield from ((pool, one.path, one.version) for one in seen.hello.components if one.version)

    def offered(self) -> dict[str, dict[str, ComponentInfo]]:
        """Components by pool and path."""
        return self._offered

    def forget_silent(self) -> None:
        """Drop those that were not heard for `SILENT_S`."""
        limit = self.clock.monotonic() - SILENT_S
        for workers in self._pools.values():
            for worker in [worker for worker, seen in workers.items() if seen.at < limit]:
                del workers[worker]
