"""What the owner of a partition answers to other orchestrators: clients' requests that they pass on, and their own questions.

Invariant: an answer is about this partition alone, and holds what its journal held when the question came. From the moment in which the
partition begins to be handed over there is none: what is known here then may be less than what its next owner knows, or nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from stepmesh_broker.protocol import api, peers
from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core.projection import run_row
from stepmesh_orchestrator.runtime import answers
from stepmesh_orchestrator.runtime.deployment_requests import count_tasks
from stepmesh_orchestrator.runtime.flow_requests import uses
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.owners import PartitionMoving
from stepmesh_orchestrator.runtime.partition import PartitionService
from stepmesh_orchestrator.runtime.schedule_requests import page
from stepmesh_orchestrator.runtime.visits import Visits

Answer = api.ApiAnswer | peers.PeerAnswer


class PeerRequests:
    """Of the partition that `service` runs. `local` answers what clients ask, from the partitions of this process."""

    def __init__(
        self, service: PartitionService, owner: str, flows: FlowRegistry, local: Callable[[api.ApiRequest], Awaitable[api.ApiAnswer]]
    ) -> None:
        self._service = service
        self._owner = owner
        self._flows = flows
        self._local = local
        self._visits = Visits()

    def close(self) -> None:
        """The partition goes: whoever asks, or waits for an answer, is to ask its next owner."""
        self._visits.end(lambda: PartitionMoving.of(self._service.partition))

    async def answer(self, request: peers.PeerRequest) -> Answer:
        """Raises `StepmeshError` of ports, `PartitionMoving`."""
        if isinstance(request, api.DeleteRun):
            return await self._delete(request)
        async with self._visits.visit():
            return await self._answer(request)

    async def _delete(self, request: api.DeleteRun) -> Answer:
        """Seen through once it is begun: who asks again finds nothing."""
        self._visits.check()
        answer = await self._local(request)
        if not isinstance(answer, api.Deleted):
            self._visits.check()
        return answer

    async def _answer(self, request: peers.PeerRequest) -> Answer:
        if isinstance(request, peers.Settle):
            return await self._settle()
        if isinstance(request, peers.Refresh):
            return await self._refresh(request)
        if isinstance(request, peers.CountTasks):
            return count_tasks(self._service.shard, self._service.ports.clock.now_ms())
        if isinstance(request, peers.FindFlow):
            return await self._find_flow(request)
        if isinstance(request, peers.TellSchedules):
            service = self._service
            return peers.SchedulesTold(await page(service.shard, request.after, request.limit, service.ports.clock.now_ms()))
        return await self._local(request)

    async def _settle(self) -> peers.Settled:
        shard = self._service.shard
        await shard.projector.reached(shard.sequence)
        return peers.Settled()

    async def _refresh(self, request: peers.Refresh) -> peers.Refreshed:
        shard = self._service.shard
        await shard.settled()
        state = shard.session.state
        live = [state.runs[run] for run in request.runs if run in state.runs]
        return peers.Refreshed([answers.summary(run_row(state, run), self._owner) for run in live])

    async def _find_flow(self, request: peers.FindFlow) -> peers.FlowFound:
        shard = self._service.shard
        if request.forget:
            await self._flows.forget(request.flow)
        if not await shard.settled():
            raise PartitionMoving.of(Partition(shard.partition))
        return peers.FlowFound(uses(shard, request.flow))
