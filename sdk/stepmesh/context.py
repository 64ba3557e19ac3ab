"""What a running component may see and do: the `Context`.

Invariants: the idempotency key and the keys of sub-runs are the same in every attempt of a step, so that a retried step
finds what an earlier attempt started. Waiting for a sub-run holds no slot of the worker. Methods may be called from an
async component, and through `block_on` from a sync one; `heartbeat` and `cancelled` from anywhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from stepmesh import payloads
from stepmesh.attempt import Why
from stepmesh.documents import FlowLike
from stepmesh.errors import NoContext, NoTurns
from stepmesh.requests import Requests
from stepmesh.runs import RunHandle, value_of, without_result
from stepmesh_broker.protocol.api import BlobData, RunInfo
from stepmesh_broker.protocol.ids import BlobId, FlowId, Partition, RunId, child_run_id
from stepmesh_broker.protocol.messages import ParentRef, Submit, Task

if TYPE_CHECKING:
    from stepmesh.attempt import Attempt
    from stepmesh.durable.live_bodies import LiveBodies
    from stepmesh.durable.telling import Turns

T = TypeVar("T")
_log = logging.getLogger("stepmesh.component")
_current: ContextVar[Context | None] = ContextVar("stepmesh_context", default=None)


class Services(NamedTuple):
    """What a context needs of its worker. `park(attempt)`: entered while the attempt waits for others. `turns`: the way for turns of
    durable functions, None where there is none. `bodies`: of durable functions that idle.
    `leaving`: set when the worker is to begin nothing more."""

    requests: Requests
    park: Callable[[Attempt], AbstractAsyncContextManager[None]]
    loop: asyncio.AbstractEventLoop
    turns: Callable[[], Turns | None]
    bodies: LiveBodies
    leaving: asyncio.Event


class Context:
    """One attempt of one step, as its component sees it. `traceparent`: W3C trace context for what it starts, or ""."""

    __slots__ = ("_attempt", "_log", "_services", "traceparent")

    def __init__(self, attempt: Attempt, services: Services) -> None:
        self._attempt = attempt
        self._services = services
        self._log: logging.LoggerAdapter[logging.Logger] | None = None
        self.traceparent = attempt.task.traceparent

    @property
    def run_id(self) -> str:
        """Id of the run that the step belongs to."""
        return self._attempt.task.run

    @property
    def root_run_id(self) -> str:
        """Id of the run at the top of the tree of sub-runs."""
        return self._attempt.root

    @property
    def item(self) -> int:
        """Index of the run's item, from 0."""
        return self._attempt.task.item

    @property
    def step_id(self) -> str:
        """Id of the step within its flow."""
        return self._attempt.task.step_id

    @property
    def step_index(self) -> int:
        """Index of the step within its flow, from 0."""
        return self._attempt.task.step

    @property
    def pool(self) -> str:
        """Pool that the task came from."""
        return self._attempt.frame.header.pool

    @property
    def component(self) -> str:
        """Path of the component that runs."""
        return self._attempt.task.component

    @property
    def attempt(self) -> int:
        """Which attempt of the step this is, from 1."""
        return self._attempt.task.attempt

    @property
    def path_params(self) -> Mapping[str, str]:
        """What the route, and the component's own path, captured."""
        return {**(self._attempt.task.path_params or {}), **(self._attempt.captured or {})}

    @property
    def idempotency_key(self) -> str:
        """`<root run>/<run>/<item>/<step id>`: the same in every attempt; give it to services that deduplicate."""
        task = self._attempt.task
        return f"{self._attempt.root}/{task.run}/{task.item}/{task.step_id}"

    @property
    def deadline(self) -> datetime | None:
        """When this attempt times out (UTC), or None."""
        attempt = self._attempt
        limit_s = attempt.limit_s()
        if limit_s is None:
            return None
        return datetime.fromtimestamp(attempt.started_us / 1e6, UTC) + timedelta(seconds=limit_s)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry `run_id`, `item`, `step_id`, `attempt` and `component`."""
        if self._log is None:
            told = {"run_id": self.run_id, "item": self.item, "step_id": self.step_id, "attempt": self.attempt, "component": self.component}
            self._log = logging.LoggerAdapter(_log, told)
        return self._log

    @property
    def cancelled(self) -> bool:
        """Whether this attempt was told to stop (cancel, timeout, or the worker leaves). A sync component should look now and then."""
        return self._attempt.why is not None

    async def wait_cancelled(self) -> None:
        """Returns when `cancelled` is true."""
        if self._attempt.stopped is None:
            self._attempt.stopped = asyncio.Event()
        if not self.cancelled:
            await self._attempt.stopped.wait()

    def heartbeat(self, progress: float | None = None, **details: Any) -> None:
        """Tell how far the work is (0..1) and any JSON details. Cheap: the newest is sent with the worker's next heartbeat."""
        self._attempt.heard_at = self._services.loop.time()
        if progress is not None:
            self._attempt.progress = min(1.0, max(0.0, float(progress)))
        if details:
            self._attempt.details = payloads.write(details)

    def block_on(self, work: Coroutine[Any, Any, T]) -> T:
        """From a sync component, in its thread: run one of the async methods and wait for it."""
        future = asyncio.run_coroutine_threadsafe(work, self._services.loop)
        attempt = self._attempt
        attempt.blocked = attempt.blocked or set()
        attempt.blocked.add(future.cancel)
        try:
            return future.result()
        finally:
            attempt.blocked.discard(future.cancel)

    def turns(self) -> tuple[Turns, Partition, asyncio.Event]:
        """For a durable function: the way for its turns, its partition, and what is set when there is news. Raises `NoTurns`."""
        turns = self._services.turns()
        if turns is None:
            raise NoTurns(
                f"{self.component} is a durable function, and this worker's gateway passes no turns on: it is of an earlier release",
                hint="upgrade the gateways before the workers, or connect the worker to the broker itself",
            )
        news = self._attempt.news = asyncio.Event()
        return turns, self._attempt.frame.header.partition, news

    @property
    def bodies(self) -> LiveBodies:
        """Bodies of durable functions that idle in this worker."""
        return self._services.bodies

    @property
    def leaving(self) -> asyncio.Event:
        """Set when the worker is to begin nothing more."""
        return self._services.leaving

    @property
    def is_fresh(self) -> bool:
        """Whether nobody had this task before, as far as it can tell."""
        attempt, task = self._attempt, self._attempt.task
        return task.dispatch == attempt.frame.delivery.deliveries == 1 and not task.claim_first

    @property
    def journal(self) -> str:
        """Id of the journal that knows the task."""
        return self._attempt.frame.header.journal

    @property
    def task(self) -> Task:
        """The attempt as the orchestrator sent it."""
        return self._attempt.task

    def idle(self) -> None:
        """This attempt has no result, now that it ends: a durable function that waits for others."""
        self._attempt.why = Why.IDLE

    def hand_back(self) -> None:
        """This attempt has no result, now that it ends, because the worker leaves."""
        self._attempt.why = Why.LEAVING

    async def put_blob(
        self, data: Any, filename: str | None = None, content_type: str | None = None, kind: Literal["data", "flow"] = "data"
    ) -> BlobId:
        """Store bytes or a JSON value by content; returns its id. `kind` says what a JSON value is."""
        return await self._services.requests.put_blob(data, filename, content_type, kind)

    async def get_blob(self, blob_id: str) -> Any:
        """Bytes, or the decoded JSON value. Raises `BlobNotFound`."""
        return await self._services.requests.get_blob(blob_id)

    async def read_blob(self, blob_id: str) -> BlobData:
        """A blob as it is stored, with its kind; its bytes are JSON text unless the kind is binary. Raises `BlobNotFound`."""
        return await self._services.requests.read_blob(blob_id)

    async def submit_run(
        self,
        flow: FlowLike,
        inputs: Sequence[Any],
        *,
        key: str | None = None,
        variables: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        max_concurrency: int | None = None,
    ) -> RunHandle:
        """Start a sub-run, linked to this run and cancelled with it. `flow`: a stored flow's id, a document or a `Flow`.

        `key` names the sub-run within the step, so that a later attempt finds it; the default is the ordinal of the call
        (`#1`, `#2`, …), which serves when the calls come in the same order in every attempt.
        """
        attempt, requests = self._attempt, self._services.requests
        attempt.children += 1
        key = key if key is not None else f"#{attempt.children}"
        task = attempt.task
        run = child_run_id(task.run, f"{task.item}/{task.step}/{key}")
        flow_id = await requests.flow_id(flow)
        parent = ParentRef(attempt.root, task.run, task.item, task.step, key)
        request = Submit(
            run,
            requests.namespace,
            flow_id,
            [payloads.write(value) for value in inputs],
            None if variables is None else payloads.write(variables),
            None if overrides is None else payloads.write(overrides),
            max_concurrency,
            parent=parent,
            traceparent=self.traceparent,
        )
        # The task's frame came from the shard of its root run: partition_of(root) without knowing how many there are.
        accepted = await requests.tell(attempt.frame.header.partition, request)
        return RunHandle(requests, accepted.run, accepted.existing, lambda: self._services.park(attempt))

    async def get_run(self, run_id: str, wait: bool = False, timeout: float | None = None) -> RunInfo:
        """State of a run; with `wait` when it ended (holding no slot meanwhile). Raises `RunNotFound`, `WaitTimeout`."""
        handle = RunHandle(self._services.requests, RunId(run_id), waiting=lambda: self._services.park(self._attempt))
        return await (handle.wait(timeout) if wait else handle.info())

    async def evaluate_flow(self, flow: FlowLike, input: Any, *, key: str | None = None, variables: Mapping[str, Any] | None = None) -> Any:
        """Run a flow (document, `Flow` or id) on one input as a sub-run; returns its result. Raises `RunFailed`, `FlowInvalid`."""
        handle = await self.submit_run(flow, [input], key=key, variables=variables)
        info = await handle.wait()
        if not info.results:
            raise without_result(handle.id, 0, info.summary.status)
        return value_of(handle.id, info.results[0])

    async def evaluate_flow_by_id(
        self, flow_id: str, input: Any, *, key: str | None = None, variables: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a stored flow on one input as a sub-run; returns its result. Raises `RunFailed`, `FlowNotFound`."""
        return await self.evaluate_flow(FlowId(flow_id), input, key=key, variables=variables)


def current_context() -> Context:
    """The context of the component that calls. Raises `NoContext` outside one."""
    found = _current.get()
    if found is None:
        raise NoContext("no component runs here", hint="call current_context() inside a component, or take a `context: Context` parameter")
    return found


def enter(context: Context) -> None:
    """Make `context` the current one of this contextvars context."""
    _current.set(context)


def apart(call: Callable[[], T]) -> T:
    """Call it where no component runs: what it begins may outlive the attempt, and holds nothing of it."""
    return copy_context().run(_apart, call)


def _apart(call: Callable[[], T]) -> T:
    _current.set(None)
    return call()
