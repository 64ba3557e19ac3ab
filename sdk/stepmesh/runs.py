"""A run as its submitter holds it: wait, results, items, events, cancel, resume.

Only reads, a cancel and a resume; the run lives in the orchestrator and goes on without its handle. This module must not know who
submitted it (client or component).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import msgspec

from stepmesh import payloads, run_asking
from stepmesh.errors import RunFailed, WaitTimeout
from stepmesh.requests import Requests
from stepmesh.run_asking import StreamValue
from stepmesh.run_control import RunControl
from stepmesh.uuid7 import new_run_id
from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.protocol.api import Events, GetEvents, GetItems, ItemResult, Items, RunEvent, RunInfo
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import Accepted, AskUpdate, EventKept
from stepmesh_broker.protocol.queries import AskQuery, QueryAnswer

Waiting = Callable[[], AbstractAsyncContextManager[None]]
"""Entered around each wait for a run; a component gives its slot back meanwhile."""
POLL_S = 20.0
"""Longest single wait that is asked of the orchestrator, in seconds; longer waits are several."""
PAUSE_S = 0.5
"""Pause before a wait that found nobody is taken up again, in seconds."""
PAGE = 1000
"""Items or events per page."""


class RunHandle:
    """`existing`: the run was there already (same key). `id`: run id."""

    def __init__(self, requests: Requests, run: RunId, existing: bool = False, waiting: Waiting = nullcontext) -> None:
        self.id = run
        self.existing = existing
        self._requests = requests
        self._waiting = waiting

    def __repr__(self) -> str:
        """Names the run."""
        return f"RunHandle({self.id!r})"

    async def info(self) -> RunInfo:
        """State now, without waiting. Raises `RunNotFound`."""
        return await self._requests.get_run(self.id)

    async def signal(self, name: str, data: Any = None, *, id: str | None = None) -> EventKept:
        """Send an event to the run's own address, where its waits without a key are. See `Events.send`."""
        return await self._requests.send_event(name, self.id, new_run_id() if id is None else id, payloads.write(data))

    async def wait(self, timeout: float | None = None) -> RunInfo:
        """Returns when the run ended, however it ended. Raises `WaitTimeout` after `timeout` seconds; the run goes on then."""
        clock = asyncio.get_running_loop().time
        until = None if timeout is None else clock() + timeout
        async with self._waiting():
            while True:
                patience = POLL_S if until is None else max(0.0, min(POLL_S, until - clock()))
                info = await self._patient(patience, until)
                if info.summary.is_over:
                    return info
                if until is not None and clock() >= until:
                    raise WaitTimeout(f"run {self.id} still runs after {timeout:g} s", hint=f"stepmesh explain {self.id}")

    async def _patient(self, patience: float, until: float | None) -> RunInfo:
        """A wait outlives a restart of broker and orchestrator: it ends only by its own time limit."""
        while True:
            try:
                return await self._requests.get_run(self.id, patience, results=True)
            except BrokerUnavailable:
                if until is not None and asyncio.get_running_loop().time() >= until:
                    raise
                await asyncio.sleep(PAUSE_S)

    async def result(self, timeout: float | None = None) -> Any:
        """Waits; the result of the only item, or the list of all items' results. Raises `RunFailed` for the first item without one."""
        info = await self.wait(timeout)
        summary, values = info.summary, [value_of(self.id, item) for item in info.results]
        if len(values) < summary.total:
            after = info.results[-1].item + 1 if values else 0
            values += [value_of(self.id, item) async for item in self.items(after)]
        if len(values) < summary.total:
            raise without_result(self.id, len(values), summary.status)
        return values[0] if len(values) == 1 else values

    async def items(self, first: int = 0) -> AsyncIterator[ItemResult]:
        """Items that ended so far, by index, from `first` on; `result` is a FlowResult as JSON text."""
        while True:
            page = await self._requests.ask(GetItems(self.id, first, PAGE), Items)
            for item in page.results:
                yield item
                first = item.item + 1
            if not page.more:
                return

    async def events(self, follow: bool = True, after: int = 0) -> AsyncIterator[RunEvent]:
        """Status events above position `after`, to the end of the run; without `follow` only those that are there.

        To resume, pass the last seen event's `position`.
        """
        wait_s = POLL_S if follow else 0.0
        while True:
            page = await self._requests.ask(GetEvents(self.id, after, PAGE, round(wait_s * 1000)), Events, wait_s)
            for event in page.events:
                after = max(after, event.position)
                yield event
            if page.ended or not (follow or page.events):
                return

    async def update(
        self,
        name: str,
        arguments: Any = None,
        *,
        id: str | None = None,
        item: int | None = None,
        step: str | None = None,
        timeout: float | None = 30.0,
    ) -> Any:
        """Ask the run's durable function for a change; its reply. `arguments`: as a component gets its input. `id`: the same one is the
        same update, however often it is asked; by default a new one. Raises `UpdateFailed`, `WaitTimeout`, `RequestRefused`."""
        return msgspec.json.decode(
            await self.ask_update(name, payloads.write({} if arguments is None else arguments), id, item, step, timeout)
        )

    async def ask_update(
        self,
        name: str,
        arguments: bytes,
        id: str | None = None,
        item: int | None = None,
        step: str | None = None,
        timeout: float | None = 30.0,
    ) -> bytes:
        """The same in JSON text."""
        asked = AskUpdate(self.id, new_run_id() if id is None else id, name, arguments, item, step)
        return await run_asking.update(self._requests, self.events, asked, timeout)

    async def query(self, name: str, arguments: Any = None, *, item: int | None = None, step: str | None = None) -> Any:
        """Ask the run's durable function how it stands; nothing is recorded. `arguments`: as a component gets its input. Raises
        `RequestRefused`."""
        given = payloads.write({} if arguments is None else arguments)
        asked = AskQuery(self.id, name, given, item, step)
        return msgspec.json.decode((await self._requests.ask(asked, QueryAnswer)).value)

    def stream(self, name: str, after: str = "", *, follow: bool = True) -> AsyncIterator[StreamValue]:
        """What the run writes with `wf.stream(name).write(…)`, to its end; without `follow` only what is there. To resume, pass the
        `cursor` of the last value as `after`."""
        return run_asking.stream(self.events, self.id, name, after, follow=follow)

    async def cancel(self, reason: str = "") -> None:
        """Stop the run and its sub-runs."""
        await self._requests.cancel(self.id, reason)

    async def resume(self, version: str | None = None) -> Accepted:
        """A paused run goes on, and what of it is blocked is tried again at once; see `RunControl.resume`."""
        return await RunControl(self._requests).resume(self.id, version=version)


def without_result(run: str, item: int, status: str) -> RunFailed:
    """The error for an item that never ended, because the run was cancelled before."""
    return RunFailed(run, item, status.upper(), f"the run ended as {status} before the item did")


def value_of(run: str, item: ItemResult) -> Any:
    """An ended item's result, decoded. Raises `RunFailed`."""
    result = msgspec.json.decode(item.result)
    if result.get("outcome") == "success":
        return result.get("result")
    error = result.get("error") or {}
    raise RunFailed(run, item.item, error.get("code") or item.status.upper(), error.get("message") or "", error.get("data"))
