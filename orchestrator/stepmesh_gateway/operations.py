"""What clients can ask, once for all doors: gRPC and HTTP translate to and from this, and add no rules.

Everything is asked of the orchestrators over the broker; a gateway keeps no state of runs, so that any of them can answer.
JSON stays JSON text (bytes): integers keep their size and keys their order.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence

import msgspec

from stepmesh.requests import Requests
from stepmesh.runs import POLL_S
from stepmesh.uuid7 import new_run_id, new_run_id_on
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.ports import Requester
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import BlobId, FlowId, Namespace, RunId, partition_of
from stepmesh_broker.protocol.messages import Accepted, ParentRef, Submit
from stepmesh_gateway.settings import GatewaySettings


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """A submission, as it came through a door. `inputs`, `variables`, `overrides`: JSON text."""

    flow: FlowId
    inputs: list[bytes]
    variables: bytes | None = None
    overrides: bytes | None = None
    max_concurrency: int | None = None
    run_key: str | None = None
    parent: ParentRef | None = None
    run: RunId | None = None
    traceparent: str = ""


class StepNotFound(StepmeshError):
    """A run has no such step in that item, or nothing has needed it so far."""

    default_code = "SM-7005"


class Operations:
    """Over one connection. Raises `RequestRefused` (with the orchestrator's code) and `BrokerUnavailable`."""

    def __init__(self, broker: Requester, settings: GatewaySettings) -> None:
        self.settings = settings
        self.namespace: Namespace = settings.namespace
        self.id = f"gateway-{secrets.token_hex(4)}"
        self.requests = Requests(broker, settings.namespace, patience_s=10.0)

    # --- runs ---------------------------------------------------------------------------------------------------

    async def create_run(self, new: NewRun) -> Accepted:
        """Returns once the run is journaled."""
        partitions = (await self.requests.info()).partitions
        run = new.run
        if run is None:
            run = new_run_id() if new.run_key is None else new_run_id_on(partition_of(new.run_key, partitions), partitions)
        home = run if new.parent is None else new.parent.root
        request = Submit(
            run, self.namespace, new.flow, new.inputs, new.variables, new.overrides, new.max_concurrency, new.run_key, new.parent,
            traceparent=new.traceparent,
        )  # fmt: skip
        return await self.requests.tell(partition_of(home, partitions), request)

    async def get_run(self, run: RunId, wait_s: float = 0.0) -> api.RunSummary:
        """The run now, or as soon as it ended, at the latest after `wait_s`. Raises `RunNotFound`."""
        clock = asyncio.get_running_loop().time
        until = clock() + min(wait_s, self.settings.limits.request_s)
        while True:
            left = max(0.0, min(POLL_S, until - clock()))
            summary = (await self.requests.get_run(run, left)).summary
            if summary.status != "running" or clock() >= until:
                return summary

    async def items(self, run: RunId, live: bool = True) -> AsyncIterator[api.ItemResult]:
        """The run's items by index; `live`: also those that have not ended. Raises `RunNotFound`."""
        first, more = 0, True
        while more:
            page = await self.requests.ask(api.GetItems(run, first, live=live), api.Items)
            for item in page.results:
                yield item
            more = page.more and bool(page.results)
            if more:
                first = page.results[-1].item + 1

    async def steps(self, run: RunId, item: int | None = None, as_of: int | None = None) -> AsyncIterator[api.StepStatus]:
        """The run's steps by item and step. Raises `RunNotFound`."""
        first, more = 0, True
        while more:
            page = await self.requests.ask(api.GetSteps(run, item, first, as_of), api.Steps)
            for step in page.steps:
                yield step
            more = page.more and bool(page.steps)
            if more:
                first = page.steps[-1].item + 1

    async def step(self, run: RunId, step_id: str, item: int = 0, as_of: int | None = None) -> api.StepStatus:
        """One step of one item, now or as it was at a position. Raises `RunNotFound`, `StepNotFound`."""
        async for step in self.steps(run, item, as_of):
            if step.step_id == step_id:
                return step
        raise StepNotFound(f"item {item} of run {run} has no step {step_id[:80]!r} that anything needed", hint="list the run's steps")

    async def events(self, run: RunId, after: int = 0) -> AsyncIterator[Sequence[api.RunEvent]]:
        """Pages of the run's events and those of its sub-runs, from behind position `after` until the run is over. An empty page is a
        sign of life: nothing happened for a while. The next page is asked for when the reader comes back, so it sets the pace."""
        while True:
            page = await self.requests.ask(api.GetEvents(run, after, wait_ms=round(POLL_S * 1000)), api.Events, POLL_S)
            yield page.events
            if page.events:
                after = page.events[-1].position
            if page.ended:
                return

    async def list_runs(self, query: api.ListRuns) -> list[api.RunSummary]:
        """Newest first."""
        return (await self.requests.ask(query, api.Runs)).runs

    async def cancel(self, run: RunId, reason: str = "") -> api.RunSummary:
        """Stop a run and its sub-runs; the run as it is then."""
        await self.requests.cancel(run, reason)
        return await self.get_run(run)

    async def delete_run(self, run: RunId) -> None:
        """Remove an ended run."""
        await self.requests.ask(api.DeleteRun(run), api.Deleted)

    # --- flows, blobs, components -------------------------------------------------------------------------------

    async def store_flow(self, document: bytes, dry_run: bool = False) -> api.FlowStored:
        """Check a flow, and store it unless it is invalid or this is a `dry_run`."""
        return await self.requests.ask(api.StoreFlow(document, dry_run), api.FlowStored)

    async def get_flow(self, flow: FlowId) -> api.FlowData:
        """The stored document. Raises `FlowNotFound`."""
        return await self.requests.ask(api.GetFlow(flow), api.FlowData)

    async def delete_flow(self, flow: FlowId) -> None:
        """Remove a flow that no live run uses."""
        await self.requests.ask(api.DeleteFlow(flow), api.Deleted)

    async def variables(self, flow: FlowId) -> api.Variables:
        """The variables that a flow declares."""
        return await self.requests.ask(api.GetVariables(flow), api.Variables)

    async def put_blob(self, blob: api.PutBlob) -> BlobId:
        """Store a blob by its content."""
        return (await self.requests.ask(blob, api.BlobStored)).blob

    async def get_blob(self, blob: BlobId) -> api.BlobData:
        """A blob as it is stored. Raises `BlobNotFound`."""
        return await self.requests.read_blob(blob)

    async def components(self) -> api.Components:
        """What workers said last that they offer; waits for none of them."""
        return await self.requests.ask(api.ListComponents(), api.Components)

    async def queues(self) -> api.Queues:
        """The pools that the deployment routes to."""
        return await self.requests.ask(api.ListQueues(), api.Queues)
