"""Several orchestrators that share partitions, in one virtual-time loop: they join, leave, crash, and stand still as if stopped."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from tests.simulation.deployment_world import World, until

from stepmesh_broker.ports import Broker, Inbox
from stepmesh_broker.protocol.ids import Partition, Position
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.membership import MemoryMembership
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.runtime.partition import Ports

TTL_S = 3.0


class Gate:
    """What a process does goes through it; nothing does while it is shut."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def passed(self) -> None:
        await self._open.wait()

    def around(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """A call that neither begins nor returns while the gate is shut."""

        async def gated(*args: Any, **kwargs: Any) -> Any:
            await self.passed()
            try:
                return await call(*args, **kwargs)
            finally:
                await self.passed()

        return gated


class Gated:
    """Any port, behind a gate; so are the handlers that a broker is given and the inboxes that it gives."""

    def __init__(self, inner: Any, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._gate.around(found) if inspect.iscoroutinefunction(found) else found

    async def serve(self, subject: Any, responder: Any, group: str = "") -> Any:
        return await self._inner.serve(subject, self._gate.around(responder), group)

    async def listen(self, subject: Any, handler: Any) -> Any:
        return await self._inner.listen(subject, self._gate.around(handler))

    async def inbox(self, partition: Partition, after: Position) -> Inbox:
        await self._gate.passed()
        gated: Any = Gated(await self._inner.inbox(partition, after), self._gate)
        return gated  # type: ignore[no-any-return]


class ClusterWorld(World):
    """`appends`: when frames became durable, by partition."""

    def __init__(self, partitions: int = 16, wrap: Callable[[Broker], Broker] = lambda broker: broker, **hooks: Any) -> None:
        super().__init__(MemoryJournal(hooks.get("before_append"), self._appended), wrap)
        self.count = partitions
        self.membership = MemoryMembership(self.clock)
        self.nodes: list[Node] = []
        self.gates: dict[Node, Gate] = {}
        self.lines: dict[Node, Gate] = {}  # to the membership
        self.appends: dict[int, list[float]] = {}

    def _appended(self, partition: int, sequence: int) -> None:
        self.appends.setdefault(partition, []).append(asyncio.get_running_loop().time())

    async def join(self) -> Node:
        """One more orchestrator."""
        gate = Gate()
        line = Gate()
        ports: list[Any] = [Gated(one, gate) for one in (await self.connection(), self.journal, self.store, self.clock)]
        membership: Any = Gated(Gated(self.membership, line), gate)
        node = Node(Ports(*ports), NodeSettings(partitions=self.count, owner=f"n{len(self.gates)}", ttl_s=TTL_S), membership=membership)
        await node.start()
        self.nodes.append(node)
        self.gates[node] = gate
        self.lines[node] = line
        return node

    async def leave(self, node: Node) -> None:
        """As by SIGTERM."""
        self.nodes.remove(node)
        await node.stop()

    async def crash(self, node: Node) -> None:
        """As by SIGKILL: nobody is told."""
        self.nodes.remove(node)
        self.gates[node].open()
        await node.abort()

    def pause(self, node: Node) -> None:
        """As by SIGSTOP."""
        self.gates[node].shut()

    def resume(self, node: Node) -> None:
        """As by SIGCONT."""
        self.gates[node].open()

    def shares(self, *nodes: Node) -> list[int]:
        """How many partitions each has at work."""
        return sorted(len(node.partitions) for node in nodes or self.nodes)

    def is_shared(self) -> bool:
        """Whether every partition is at work at one node, and the shares are fair."""
        owned = Counter(partition for node in self.nodes for partition in node.partitions)
        shares = self.shares()
        return len(owned) == self.count == sum(shares) and max(shares) - min(shares) <= 1

    async def settled(self) -> None:
        """Until `is_shared`."""
        await until(self.is_shared)

    async def close(self) -> None:
        for worker, _ in self.workers:
            worker.stop()
        await asyncio.gather(*(task for _, task in self.workers))
        for node in list(self.nodes):
            await self.leave(node)

    def longest_gap(self, begin: float, end: float) -> float:
        """The longest time within these bounds in which some partition journaled nothing; it means something under steady load only."""
        gaps = [0.0]
        for times in self.appends.values():
            marks = [begin, *(time for time in times if begin < time < end), end]
            gaps += [later - earlier for earlier, later in itertools.pairwise(marks)]
        return max(gaps)
