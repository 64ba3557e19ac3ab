"""stepmesh.v1 AdminService: the deployment, its pools and its dead letters."""

from __future__ import annotations

from google.protobuf.descriptor import ServiceDescriptor

from stepmesh_broker.pb.stepmesh.v1 import admin_pb2 as pb
from stepmesh_broker.protocol.dead_letters import ListDeadLetters
from stepmesh_broker.protocol.ids import Position
from stepmesh_broker.protocol.pools import PoolEntry
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.rpc.statuses import Context

DESCRIPTOR: ServiceDescriptor = pb.DESCRIPTOR.services_by_name["AdminService"]


class AdminMethods:
    """The RPCs of AdminService."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def GetDeployment(self, request: pb.GetDeploymentRequest, context: Context) -> pb.GetDeploymentResponse:
        """As its orchestrators tell it."""
        info = await self._operations.deployment()
        return pb.GetDeploymentResponse(
            version=info.version,
            namespace=info.namespace,
            partitions=info.partitions,
            durability=info.durability,
            journal=info.journal,
            shared=info.shared,
            limits=info.limits,
        )

    async def ListPools(self, request: pb.ListPoolsRequest, context: Context) -> pb.ListPoolsResponse:
        """By name."""
        return pb.ListPoolsResponse(pools=[_pool(one) for one in await self._operations.pools()])

    async def GetPool(self, request: pb.GetPoolRequest, context: Context) -> pb.PoolInfo:
        """Zeros for one that nobody used yet."""
        return _pool(await self._operations.pool(request.pool))

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, context: Context) -> pb.ListDeadLettersResponse:
        """Oldest first."""
        wanted = ListDeadLetters(request.limit or ListDeadLetters().limit, request.pool)
        found = await self._operations.dead_letters(wanted)
        letters = [pb.DeadLetter(position=one.position, pool=one.pool, size=one.size, data=one.data, reason=one.reason) for one in found]
        return pb.ListDeadLettersResponse(letters=letters)

    async def DropDeadLetter(self, request: pb.DropDeadLetterRequest, context: Context) -> pb.DropDeadLetterResponse:
        """NOT_FOUND for one that is not there."""
        await self._operations.drop_dead_letter(Position(request.position))
        return pb.DropDeadLetterResponse()

    async def ResendDeadLetter(self, request: pb.ResendDeadLetterRequest, context: Context) -> pb.ResendDeadLetterResponse:
        """NOT_FOUND for one that is not there, FAILED_PRECONDITION for one that cannot be sent again."""
        return pb.ResendDeadLetterResponse(topic=await self._operations.resend_dead_letter(Position(request.position)))


def _pool(pool: PoolEntry) -> pb.PoolInfo:
    return pb.PoolInfo(
        pool=pool.pool,
        wanted=pool.wanted,
        queued=pool.queued,
        leased=pool.in_flight,
        oldest_seconds=pool.oldest_ms / 1000,
        workers=len(pool.workers),
        capacity=pool.capacity,
    )
