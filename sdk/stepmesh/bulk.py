"""One action on many root runs: those that are named, or those that a filter finds.

Invariant: no filter means nothing, never everything. The runs are found before the first is acted upon, so that the listing does not move
under its reader; each is answered for by itself. This module must not know what an action does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from stepmesh.errors import RequestRefused
from stepmesh.requests import Requests
from stepmesh.run_control import RunControl
from stepmesh_broker.protocol.api import Deleted, DeleteRun, ListRuns, Runs, RunSummary
from stepmesh_broker.protocol.ids import RunId

PAGE = 1000
"""Runs of one page of the listing."""
AT_ONCE = 16
"""Runs that are acted upon at the same time."""
ACTIONS = ("cancel", "pause", "resume", "retry", "delete")


@dataclass(frozen=True, kw_only=True)
class RunFilter:
    """Root runs for which all of this holds. `tags`: all of them, among others."""

    status: str | None = None
    flow_name: str | None = None
    tags: Mapping[str, str] | None = None

    def is_empty(self) -> bool:
        """Whether it would let every run pass."""
        return not (self.status or self.flow_name or self.tags)

    def passes(self, run: RunSummary) -> bool:
        """What the listing does not look at."""
        own = run.tags or {}
        return all(own.get(name) == value for name, value in (self.tags or {}).items())


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it for one run. `code`, `message`: why it was refused. `new`: the run that continues it."""

    run: str
    code: str = ""
    message: str = ""
    new: str | None = None

    @property
    def done(self) -> bool:
        """Whether it was done, or was so already."""
        return not self.code


class Bulk:
    """Over one connection."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._control = control = RunControl(requests)
        self._actions: dict[str, Callable[[str], Awaitable[str | None]]] = {
            "cancel": lambda run: _nothing(requests.cancel(run, "cancelled with others")),
            "pause": lambda run: _nothing(control.pause(run, "paused with others")),
            "resume": lambda run: _nothing(control.resume(run)),
            "retry": lambda run: _new(control, run),
            "delete": lambda run: _nothing(requests.ask(DeleteRun(RunId(run)), Deleted)),
        }

    async def chosen(self, runs: Sequence[str] | None, wanted: RunFilter | None) -> list[str]:
        """The runs that are named, or those that pass the filter, newest first. Raises `RequestRefused` SM-5230 unless one of the two says
        something."""
        filtered = wanted is not None and not wanted.is_empty()
        if bool(runs) == filtered or (runs is not None and wanted is not None):
            raise RequestRefused(
                "name runs, or give a filter that leaves some out; not both",
                code="SM-5230",
                hint="filter by status, flow or tag: an empty filter would mean every run there is",
            )
        return list(dict.fromkeys(runs)) if runs else await self._listed(wanted or RunFilter())

    async def _listed(self, wanted: RunFilter) -> list[str]:
        found: dict[str, None] = {}
        offset = 0
        while True:
            request = ListRuns(wanted.status, wanted.flow_name, roots_only=True, limit=PAGE, offset=offset)
            page = (await self._requests.ask(request, Runs)).runs
            found.update((run.run, None) for run in page if wanted.passes(run))
            if not page:
                return list(found)
            offset += len(page)

    async def act(self, action: str, runs: Sequence[str], *, version: str | None = None) -> AsyncIterator[Outcome]:
        """Do it to each, a few at a time; outcomes in the order of the runs. `version`: of `resume`, which alone has one. Raises
        `BrokerUnavailable`."""
        if version is not None and action != "resume":
            raise ValueError(f"{action} takes no version")
        act = self._actions[action] if version is None else lambda run: _nothing(self._control.resume(run, version=version))
        for first in range(0, len(runs), AT_ONCE):
            for outcome in await asyncio.gather(*(_one(act, run) for run in runs[first : first + AT_ONCE])):
                yield outcome


async def _one(act: Callable[[str], Awaitable[str | None]], run: str) -> Outcome:
    try:
        return Outcome(run=run, new=await act(run))
    except RequestRefused as problem:
        return Outcome(run=run, code=problem.code, message=problem.message)


async def _nothing(work: Awaitable[object]) -> None:
    await work


async def _new(control: RunControl, run: str) -> str:
    return (await control.retry(run)).run
