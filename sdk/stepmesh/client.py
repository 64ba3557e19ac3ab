"""The client: store flows, submit runs, wait, look, cancel; what is about schedules is in schedules.py.

Invariant: the client holds no state of runs. Rules about flows are the orchestrator's.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Unpack

from stepmesh import endpoint, payloads
from stepmesh.documents import FlowLike
from stepmesh.errors import RequestRefused
from stepmesh.instrument import SubmitInstrument
from stepmesh.outside import Events, Promises
from stepmesh.producer import PRODUCER_LIMITS, Producer, ProducerLimits
from stepmesh.requests import Requests
from stepmesh.run_control import RunControl
from stepmesh.runs import RunHandle
from stepmesh.schedules import ScheduleClient
from stepmesh.submitting import RunOptions, Submitter
from stepmesh.telemetry import configured
from stepmesh_broker.ports import Requester
from stepmesh_broker.protocol.api import (
    ComponentEntry,
    Components,
    Deleted,
    DeleteFlow,
    DeleteRun,
    Explain,
    Explained,
    ListComponents,
    ListRuns,
    RunInfo,
    Runs,
    RunSummary,
)
from stepmesh_broker.protocol.dead_letters import DeadLetter, DeadLetters, DropDeadLetter, ListDeadLetters, ResendDeadLetter, Resent
from stepmesh_broker.protocol.ids import BlobId, FlowId, Namespace, Position, RunId
from stepmesh_broker.protocol.pools import ListPools, PoolEntry, Pools
from stepmesh_broker.protocol.subjects import checked_name


class Client:
    """Over a connection to a broker or a gateway. `patience_s`: how long requests are repeated while nobody answers (seconds).
    `instrument`: traces submissions; a client made by `connect` has one when telemetry is configured (docs/telemetry.md).
    `events`: what happened in a run, and events for runs that wait; `promises`: answers to what they wait for, by token.

    `async with Client.connect() as client:` or `client = await Client.connect()` and later `await client.close()`.
    """

    def __init__(
        self,
        broker: Requester,
        namespace: str = "default",
        *,
        patience_s: float = 30.0,
        owned: bool = False,
        instrument: SubmitInstrument | None = None,
    ) -> None:
        self.instrument = instrument
        self._broker = broker
        self._owned = owned
        self.namespace = Namespace(checked_name("namespace", namespace))
        self.requests = Requests(broker, self.namespace, patience_s)
        self.schedules = ScheduleClient(self.requests)
        self.events = Events(self.requests)
        self.promises = Promises(self.requests)

    @classmethod
    def connect(cls, url: str | None = None, namespace: str | None = None, *, patience_s: float = 30.0) -> Client:
        """A client with its own connection, which `await` or `async with` opens. Raises `EndpointNotFound` (see endpoint.py).

        `url`: `nats://…` or `kafka://…` of a broker, or `grpc://…` of a gateway. `namespace`: default STEPMESH_NAMESPACE, or `default`.
        """
        namespace = os.environ.get("STEPMESH_NAMESPACE", "default") if namespace is None else namespace
        broker = endpoint.connection(endpoint.find(url), namespace)
        return cls(broker, namespace, patience_s=patience_s, owned=True, instrument=configured("stepmesh-client"))

    def __await__(self) -> Generator[Any, Any, Client]:
        """Open the connection."""
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Client:
        """Open the connection. Raises `BrokerUnavailable`."""
        if self._owned:
            await self._broker.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connection."""
        await self.close()

    async def close(self) -> None:
        """Close the connection, if this client opened it. Runs go on."""
        if self._owned:
            await self._broker.close()

    # --- submit -------------------------------------------------------------------------------------------------

    async def store_flow(self, flow: FlowLike) -> FlowId:
        """Store a flow (document, `Flow` or file); returns its content id. Raises `FlowInvalid`, `BadFlow`."""
        return await self.requests.store_flow(flow)

    async def submit(
        self,
        flow: FlowLike,
        inputs: Sequence[Any],
        *,
        variables: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        max_concurrency: int | None = None,
        run_key: str | None = None,
        tags: Mapping[str, str] | None = None,
        priority: int = 0,
        tenant: str | None = None,
    ) -> RunHandle:
        """Start a run with one item per input; returns once it is journaled.

        `run_key`: a name that makes the submission idempotent: the same key gives the same run. `max_concurrency`: tasks in
        flight in the run tree, 0 = no limit. `priority`: -100 … 100; of two tasks that wait the higher one goes first. `tenant`: the
        namespace of the run, if it is one that shares the deployment. Raises `FlowInvalid`, `FlowNotFound`, `RequestRefused` (e.g.
        invalid input).
        """
        if isinstance(inputs, (str, bytes, Mapping)):
            raise RequestRefused(
                "`inputs` is a list with one entry per item", code="SM-5103", hint=f"submit(flow, [{type(inputs).__name__}])"
            )
        submitter = await Submitter.of(
            self.requests,
            flow,
            self.instrument,
            variables=variables,
            overrides=overrides,
            max_concurrency=max_concurrency,
            tags=tags,
            priority=priority,
            tenant=tenant,
        )
        return await submitter.submit([payloads.write(value) for value in inputs], run_key)

    def producer(self, flow: FlowLike, *, limits: ProducerLimits = PRODUCER_LIMITS, **options: Unpack[RunOptions]) -> Producer:
        """For very many submissions of one flow: `async with client.producer(flow) as producer: await producer.submit(inputs, key=…)`.
        `options`: those of `submit`, of every run."""
        return Producer(self.requests, flow, self.instrument, limits, options)

    async def run(self, flow: FlowLike, input: Any, *, timeout: float | None = None, **options: Any) -> Any:
        """Submit one input and wait for its result. `options`: those of `submit`. Raises `RunFailed`, `WaitTimeout`."""
        handle = await self.submit(flow, [input], **options)
        return await handle.result(timeout)

    def handle(self, run: str, existing: bool = False) -> RunHandle:
        """A handle for a run by its id; asks nothing."""
        return RunHandle(self.requests, RunId(run), existing)

    # --- runs ---------------------------------------------------------------------------------------------------

    async def get_run(self, run: str) -> RunInfo:
        """State of a run and the results of its ended items. Raises `RunNotFound`."""
        return await self.requests.get_run(run, results=True)

    async def list_runs(
        self,
        *,
        status: str | None = None,
        flow_name: str | None = None,
        root: str | None = None,
        parent: str | None = None,
        roots_only: bool = False,
        limit: int = 100,
        offset: int = 0,
        tenant: str | None = None,
    ) -> list[RunSummary]:
        """Newest first. `status`: queued (it waits before its gates), running, paused, completed, failed or cancelled. `tenant`: of that
        namespace, if it shares the deployment."""
        above, tree = None if parent is None else RunId(parent), None if root is None else RunId(root)
        of = None if tenant is None else Namespace(tenant)
        return (await self.requests.ask(ListRuns(status, flow_name, tree, above, roots_only, limit, offset, namespace=of), Runs)).runs

    async def cancel(self, run: str, reason: str = "") -> None:
        """Stop a run and its sub-runs; returns once that is journaled. Raises `RunNotFound`."""
        await self.requests.cancel(run, reason)

    @property
    def control(self) -> RunControl:
        """Pause runs, let them go on, wake them, continue them in new ones."""
        return RunControl(self.requests)

    async def delete_run(self, run: str) -> None:
        """Remove an ended run, its sub-runs and their results for good. Raises `RunNotFound`, `RequestRefused` (SM-5012 while it runs)."""
        await self.requests.ask(DeleteRun(RunId(run)), Deleted)

    async def delete_flow(self, flow: str) -> None:
        """Remove a stored flow by its id. Raises `FlowNotFound`, `RequestRefused` (SM-5013 while a live run uses it)."""
        await self.requests.ask(DeleteFlow(FlowId(flow)), Deleted)

    async def explain(self, run: str) -> list[str]:
        """What each live step of the run waits for. Raises `RunNotFound`."""
        return (await self.requests.ask(Explain(RunId(run)), Explained)).lines

    # --- deployment and blobs -----------------------------------------------------------------------------------

    async def components(self) -> list[ComponentEntry]:
        """What workers offer, by path."""
        return (await self.requests.ask(ListComponents(), Components)).components

    async def pools(self) -> list[PoolEntry]:
        """Pools with their depth and workers."""
        return (await self.requests.ask(ListPools(), Pools)).pools

    async def dead_letters(self, limit: int = 100, pool: str = "") -> list[DeadLetter]:
        """Messages that nobody could take, oldest first, `limit` of them (at most 500). `pool` "" is all of them; records of topics are
        under `submit` and `events`."""
        return (await self.requests.ask(ListDeadLetters(limit, pool), DeadLetters)).letters

    async def drop_dead_letter(self, position: int) -> None:
        """Remove one for good. Raises `RequestRefused` SM-5024 when it is not there."""
        await self.requests.ask(DropDeadLetter(Position(position)), Deleted)

    async def resend_dead_letter(self, position: int) -> str:
        """Write a record that lies there to its topic again; returns the topic's name, and the letter is gone. Raises `RequestRefused`:
        SM-5024 when it is not there, SM-5140 for a task of a pool, SM-5141 when the letter does not hold all of the record."""
        return (await self.requests.ask(ResendDeadLetter(Position(position)), Resent)).topic

    async def put_blob(self, data: Any, filename: str | None = None, content_type: str | None = None) -> BlobId:
        """Store bytes or a JSON value by content; returns its id."""
        return await self.requests.put_blob(data, filename, content_type)

    async def get_blob(self, blob: str) -> Any:
        """Bytes, or the decoded JSON value. Raises `BlobNotFound`."""
        return await self.requests.get_blob(blob)
