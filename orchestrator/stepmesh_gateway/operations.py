"""What clients can ask, once for all doors: gRPC and HTTP translate to and from this, and add no rules.

Everything is asked of the orchestrators over the broker; a gateway keeps no state of runs, so that any of them can answer.
JSON stays JSON text (bytes): integers keep their size and keys their order.
"""

from __future__ import annotations

import asyncio
import platform
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

import msgspec
from msgspec import structs

from stepmesh import run_asking
from stepmesh.bulk import Bulk
from stepmesh.errors import BlobNotFound, FlowNotFound
from stepmesh.requests import Requests
from stepmesh.run_control import RunControl
from stepmesh.runs import POLL_S, RunHandle
from stepmesh.schedules import ScheduleClient
from stepmesh.uuid7 import new_run_id, new_run_id_on
from stepmesh_broker.errors import BrokerUnavailable, StepmeshError
from stepmesh_broker.ports import Requester
from stepmesh_broker.protocol import api, codec, subjects
from stepmesh_broker.protocol.continuation import Continued, ContinueRun
from stepmesh_broker.protocol.dead_letters import DeadLetter, DeadLetters, DropDeadLetter, ListDeadLetters, ResendDeadLetter, Resent
from stepmesh_broker.protocol.ids import BlobId, FlowId, Namespace, Pool, Position, RunId, partition_of
from stepmesh_broker.protocol.messages import Accepted, AskUpdate, EventKept, ParentRef, Submit
from stepmesh_broker.protocol.pools import ListPools, PoolEntry, Pools
from stepmesh_broker.protocol.queries import AskQuery, QueryAnswer
from stepmesh_broker.protocol.subjects import checked_name
from stepmesh_gateway.limits import Streams, check_payload
from stepmesh_gateway.settings import GatewaySettings
from stepmesh_gateway.translate.fields import LARGEST

_T = TypeVar("_T")


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
    priority: int = 0
    namespace: Namespace | None = None


class StepNotFound(StepmeshError):
    """A run has no such step in that item, or nothing has needed it so far."""

    default_code = "SM-7005"


class Closing(StepmeshError):
    """The gateway stops; whatever was followed through it can be followed through another one."""

    default_code = "SM-7007"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """`status`: healthy, or unhealthy while no orchestrator answers. `target`: machine and operating system."""

    status: str
    at_ms: int
    version: str
    target: str


VERSION = version("stepmesh")  # read once: it is looked up in files
HEALTH_S = 2.0
"""How long a health check waits for an orchestrator, in seconds."""
PAUSE_S = 0.5
"""Pause before a wait that found nobody is taken up again, in seconds."""


class Operations:
    """Over one connection. Raises `RequestRefused` (with the orchestrator's code), `OverLimit` and `BrokerUnavailable`."""

    def __init__(self, broker: Requester, settings: GatewaySettings) -> None:
        self.settings = settings
        self.streams = Streams(settings.limits)
        self.namespace: Namespace = settings.namespace
        self.id = f"gateway-{secrets.token_hex(4)}"
        self.requests = Requests(broker, settings.namespace, patience_s=10.0)
        self.control = RunControl(self.requests)
        self.bulk = Bulk(self.requests)
        self.schedules = ScheduleClient(self.requests)
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End every wait as if its time were over, and every stream of events; nothing waits from now on."""
        self._closing.set()

    async def _unless_closing(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """The result of `work`; None when the gateway stops before."""
        task, closing = asyncio.ensure_future(work), asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((task, closing), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for one in (task, closing):
                one.cancel()
            await asyncio.gather(task, closing, return_exceptions=True)

    async def health(self) -> Health:
        """How the gateway is, and whether anyone stands behind it."""
        status = "healthy"
        try:
            await self.requests.broker.request(subjects.api(self.namespace), codec.encode(api.GetInfo()), HEALTH_S)
        except BrokerUnavailable:
            status = "unhealthy"
        target = f"{platform.machine()}-{platform.system()}".lower()
        return Health(status=status, at_ms=time.time_ns() // 1_000_000, version=VERSION, target=target)

    # --- runs ---------------------------------------------------------------------------------------------------

    async def create_run(self, new: NewRun) -> Accepted:
        """Returns once the run is journaled."""
        limits = self.settings.limits
        for index, text in enumerate(new.inputs):
            check_payload(f"input[{index}]", text, limits)
        check_payload("variables", new.variables or b"", limits)
        check_payload("overrides", new.overrides or b"", limits)
        partitions = (await self.requests.info()).partitions
        run = new.run
        if run is None:
            run = new_run_id() if new.run_key is None else new_run_id_on(partition_of(new.run_key, partitions), partitions)
        home = run if new.parent is None else new.parent.root
        request = Submit(
            run, new.namespace or self.namespace, new.flow, new.inputs, new.variables, new.overrides, new.max_concurrency, new.run_key,
            new.parent, traceparent=new.traceparent, priority=new.priority,
        )  # fmt: skip
        return await self.requests.tell(partition_of(home, partitions), request)

    async def get_run(self, run: RunId, wait_s: float = 0.0) -> api.RunSummary:
        """The run now, or as soon as it ended, at the latest after `wait_s` or the limit of a request. A wait outlives a restart of broker
        and orchestrator. Raises `RunNotFound`."""
        clock = asyncio.get_running_loop().time
        until = clock() + min(wait_s, self.settings.limits.request_s)
        while True:
            left = min(POLL_S, until - clock())
            if left <= 0.0 or self._closing.is_set():
                return (await self.requests.get_run(run)).summary
            try:
                found = await self._unless_closing(self.requests.get_run(run, left))
            except BrokerUnavailable:
                await asyncio.sleep(PAUSE_S)
                continue
            if found is not None and found.summary.is_over:
                return found.summary

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
        position = None if as_of is None else min(as_of, LARGEST)
        while more:
            page = await self.requests.ask(api.GetSteps(run, item, first, position), api.Steps)
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
        raise StepNotFound(
            f"item {item} of run {run} has no step {step_id[:80]!r} that anything needed"
            + ("" if as_of is None else f" at position {as_of}"),
            hint="GetRunSteps lists what there is",
        )

    async def events(self, run: RunId, after: int = 0) -> AsyncIterator[Sequence[api.RunEvent]]:
        """Pages of the run's events and those of its sub-runs, from behind position `after` until the run is over. An empty page is a
        sign of life: nothing happened for a while. The next page is asked for when the reader comes back, so it sets the pace.
        Raises `RunNotFound`, `Closing`."""
        after = min(after, LARGEST)
        while True:
            request = api.GetEvents(run, after, self.settings.limits.unread_events, round(POLL_S * 1000))
            page = await self._unless_closing(self.requests.ask(request, api.Events, POLL_S))
            if page is None:
                raise Closing("this gateway stops", hint="connect again, and go on from the last sequence number")
            yield page.events
            if page.events:
                after = page.events[-1].position
            if page.ended:
                return

    async def list_runs(self, query: api.ListRuns) -> list[api.RunSummary]:
        """Newest first, up to `query.limit` of them."""
        found: list[api.RunSummary] = []
        while True:
            left = query.limit - len(found)
            page = structs.replace(query, limit=left, offset=min(query.offset + len(found), LARGEST))
            runs = (await self.requests.ask(page, api.Runs)).runs
            found += runs
            if not runs or len(runs) >= left:
                return found

    async def cancel(self, run: RunId, reason: str = "") -> api.RunSummary:
        """Stop a run and its sub-runs; the run as it is then."""
        await self.requests.cancel(run, reason)
        return await self.get_run(run)

    async def pause(self, run: RunId, reason: str = "") -> Accepted:
        """Let nothing new of a root run and its sub-runs start."""
        return await self.control.pause(run, reason)

    async def resume(self, run: RunId, version: str | None = None) -> Accepted:
        """Let a paused run go on, and what of it is blocked; with a version of its code, perhaps."""
        return await self.control.resume(run, version=version)

    async def wake(self, run: RunId, item: int | None = None, step: str | None = None) -> list[str]:
        """End sleeps of a run now; the steps that slept."""
        return await self.control.wake(run, item=item, step=step)

    async def continue_run(self, request: ContinueRun) -> Continued:
        """A retry or a fork; `into` is chosen on the way. Returns once the new run is journaled."""
        for index, text in enumerate(request.inputs or ()):
            check_payload(f"input[{index}]", text, self.settings.limits)
        check_payload("variables", request.variables or b"", self.settings.limits)
        check_payload("overrides", request.overrides or b"", self.settings.limits)
        return await self.control.start(request)

    async def delete_run(self, run: RunId) -> None:
        """Remove an ended run."""
        await self.requests.ask(api.DeleteRun(run), api.Deleted)

    # --- from outside ---------------------------------------------------------------------------------------------

    async def send_event(self, name: str, key: str, id: str | None, data: bytes, tenant: str | None = None) -> EventKept:
        """Journaled when this returns; without an `id` it is a new one."""
        check_payload("the event's data", data, self.settings.limits)
        return await self.requests.send_event(name, key, id or new_run_id(), data, tenant)

    async def update(self, asked: AskUpdate, timeout_s: float) -> bytes:
        """The reply of a durable function, as JSON text. Raises `UpdateFailed`, `WaitTimeout`, `Closing`."""
        check_payload("the arguments", asked.arguments, self.settings.limits)
        handle = RunHandle(self.requests, asked.run)
        reply = await self._unless_closing(run_asking.update(self.requests, handle.events, asked, timeout_s))
        if reply is None:
            raise Closing("this gateway stops", hint=f"ask again with the id {asked.id}")
        return reply

    async def query(self, asked: AskQuery) -> bytes:
        """What a durable function says, as JSON text. Nothing is recorded."""
        check_payload("the arguments", asked.arguments, self.settings.limits)
        return (await self.requests.ask(asked, QueryAnswer)).value

    async def settle(self, token: str, value: bytes, *, rejected: bool) -> Accepted:
        """Answer what a step waits for, or reject it. Journaled when this returns."""
        check_payload("the answer", value, self.settings.limits)
        return await self.requests.settle(token, value, rejected)

    # --- flows, blobs, components -------------------------------------------------------------------------------

    async def store_flow(self, document: bytes, dry_run: bool = False) -> api.FlowStored:
        """Check a flow, and store it unless it is invalid or this is a `dry_run`."""
        return await self.requests.ask(api.StoreFlow(document, dry_run), api.FlowStored)

    async def get_flow(self, flow: FlowId) -> api.FlowData:
        """The stored document, or a blob that is used as one. Raises `FlowNotFound`."""
        try:
            return await self.requests.ask(api.GetFlow(flow), api.FlowData)
        except FlowNotFound as unknown:
            try:
                blob = await self.requests.read_blob(flow)
            except BlobNotFound:
                raise unknown from None
            if blob.kind == "binary":
                raise
            return api.FlowData(flow, blob.data)

    async def delete_flow(self, flow: FlowId) -> None:
        """Remove a flow that no live run uses."""
        await self.requests.ask(api.DeleteFlow(flow), api.Deleted)

    async def variables(self, flow: FlowId) -> api.Variables:
        """The variables that a flow declares."""
        return await self.requests.ask(api.GetVariables(flow), api.Variables)

    async def put_blob(self, blob: api.PutBlob) -> BlobId:
        """Store a blob by its content."""
        check_payload("the blob", blob.data, self.settings.limits)
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

    async def pools(self) -> list[PoolEntry]:
        """Those that have tasks, or had a worker; by name."""
        return (await self.requests.ask(ListPools(), Pools)).pools

    async def pool(self, name: str) -> PoolEntry:
        """One of them; zeros for one that nobody used yet. Raises `BrokerError` for what is no name."""
        pool = Pool(checked_name("pool", name))
        return next((one for one in await self.pools() if one.pool == pool), PoolEntry(pool, 0, 0, []))

    async def deployment(self) -> api.Info:
        """What its orchestrators say of it now."""
        return await self.requests.ask(api.GetInfo(), api.Info)

    async def dead_letters(self, wanted: ListDeadLetters) -> list[DeadLetter]:
        """Oldest first."""
        return (await self.requests.ask(wanted, DeadLetters)).letters

    async def drop_dead_letter(self, position: Position) -> None:
        """Remove one."""
        await self.requests.ask(DropDeadLetter(position), api.Deleted)

    async def resend_dead_letter(self, position: Position) -> str:
        """Write a record to its topic again, which is told."""
        return (await self.requests.ask(ResendDeadLetter(position), Resent)).topic
