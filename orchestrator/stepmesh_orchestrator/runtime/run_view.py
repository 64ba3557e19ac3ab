"""Runs as this process knows them: live ones in its shards, ended ones in the read model.

Invariant: what is shown is no more than what the journal holds, and no less than what it held when the question came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import Namespace, Partition, RunId
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.core.projection import run_row
from stepmesh_orchestrator.core.rows import RunRow
from stepmesh_orchestrator.core.state import Run, State
from stepmesh_orchestrator.runtime import answers
from stepmesh_orchestrator.runtime.partition import PartitionService, Ports
from stepmesh_orchestrator.runtime.shard import Shard


class Live(NamedTuple):
    """A live run, the shard that has it, and the state that it is in: the shard's own, or one with its tree alone while it is dormant."""

    shard: Shard
    state: State
    run: Run


class RunView:
    """Over the partitions that this process owns. `owner_of`: who owns a partition now, as far as is known here; "" for nobody."""

    def __init__(
        self, ports: Ports, namespace: Namespace, owner_of: Callable[[Partition], str], partitions: Mapping[Partition, PartitionService]
    ) -> None:
        self.ports = ports
        self.namespace = namespace
        self.partitions = partitions
        self._owner_of = owner_of

    async def live(self, run: RunId) -> Live | None:
        """A live run, and what the journal holds of it until the caller awaits something. A dormant one stays dormant."""
        for service in tuple(self.partitions.values()):  # one may end while another is waited for
            await service.shard.settled()
            state = service.shard.session.state
            dormant = await service.dormitory.view(run) if run in state.dormant else None
            found = (dormant or state).runs.get(run)
            if found is not None:
                return Live(service.shard, dormant or state, found)
        return None

    async def row(self, run: RunId) -> RunRow | None:
        """A run, live or ended; None when it is not known."""
        live = await self.live(run)
        if live is not None:
            return run_row(live.state, live.run)
        await self.projected()
        return await self.ports.store.get_run(run)

    async def projected(self) -> None:
        """Until the read model shows all that is journaled now, or cannot be written."""
        for service in tuple(self.partitions.values()):
            await service.shard.projector.reached(service.shard.sequence)

    def fresh(self, row: RunRow) -> RunRow:
        """A listed run as it is by now; one that has ended since stays as it was listed."""
        for service in self.partitions.values():
            live = service.shard.session.state.runs.get(row.run)
            if live is not None:
                return run_row(service.shard.session.state, live)
        return row

    def summary(self, row: RunRow) -> api.RunSummary:
        """As the api tells it, with the owner of a live run."""
        return answers.summary(row, self._owner_of(row.partition) if row.finished_ms is None else "")

    @property
    def page_bytes(self) -> int:
        """Payloads of one answer, so that it fits with all that is around them."""
        return self.ports.broker.max_message_bytes // 2


def unknown_run(run: RunId) -> Refused:
    """SM-5003."""
    return Refused("SM-5003", f"there is no run {run}", "`stepmesh list` shows the runs")
