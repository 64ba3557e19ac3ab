"""What an operator does to runs beside cancelling: pause, resume, wake, retry, fork.

Every request may be asked twice without harm: a wake names the sleeps that it ends, a retry or fork the id of the run that it makes. This
module must not know how the orchestrator decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from stepmesh import payloads
from stepmesh.documents import FlowLike
from stepmesh.errors import RequestRefused
from stepmesh.requests import Requests
from stepmesh.uuid7 import new_run_id_on
from stepmesh_broker.protocol.api import GetSteps, Steps, StepStatus
from stepmesh_broker.protocol.continuation import Continued, ContinueRun
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_broker.protocol.messages import Accepted, Pause, Resume, TaskRef, Wake

NO_RUN = RunId("")


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is other in a fork; None: as it was. `inputs`: one per item. `flow`: one whose steps have the same ids."""

    flow: FlowLike | None = None
    inputs: Sequence[Any] | None = None
    variables: Any = None
    overrides: Any = None
    tags: dict[str, str] | None = None


UNCHANGED = Changes()


class RunControl:
    """Over one connection. Raises `RunNotFound`, `RequestRefused` with the orchestrator's code, `BrokerUnavailable`."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def pause(self, run: str, reason: str = "") -> Accepted:
        """Nothing new of a root run and its sub-runs starts; tasks in flight end and count. `existing`: it was paused already."""
        return await self._requests.tell(await self._home(run), Pause(RunId(run), reason))

    async def resume(self, run: str, *, version: str | None = None) -> Accepted:
        """A paused run goes on where it stood, and what of it is blocked is tried again at once. `version`: its durable functions belong to
        that one of their code from now on; as `stepmesh workers` shows it, or what of it is unambiguous. `existing`: there was nothing to
        do. Raises `RequestRefused` SM-1095 to SM-1097 for a version that cannot be had."""
        if version is not None and not version.strip():
            raise RequestRefused("an empty text is no version", code="SM-1098", hint="`stepmesh workers` shows the versions that live")
        return await self._requests.tell(await self._home(run), Resume(RunId(run), "" if version is None else version.strip()))

    async def wake(self, run: str, *, item: int | None = None, step: str | None = None) -> list[str]:
        """End the sleeps of a run now (not those of its sub-runs), or only those of an item or a step; ids of the steps that slept. Raises
        `RequestRefused` SM-5229 when nothing sleeps."""
        asleep = [one for one in await self._asleep(run, item) if step in (None, one.step_id)]
        if not asleep:
            raise RequestRefused(
                f"nothing{'' if step is None else f' called {step}'} sleeps in run {run}",
                code="SM-5229",
                hint=f"stepmesh explain {run} says what it waits for, in sub-runs too",
            )
        tasks = [TaskRef(RunId(run), one.item, one.step, one.attempt) for one in asleep]
        await self._requests.tell(await self._home(run), Wake(RunId(run), tasks))
        return [one.step_id for one in asleep]

    async def retry(
        self, run: str, *, items: Sequence[int] | None = None, from_step: str | None = None, key: str | None = None
    ) -> Continued:
        """Continue a run that failed or was cancelled in a new one, with the items that did not succeed: steps that succeeded keep their
        results. `key` makes it idempotent: the same one gives the same new run."""
        chosen = None if items is None else list(items)
        return await self.start(ContinueRun(RunId(run), NO_RUN, retry=True, items=chosen, from_step=from_step, run_key=key))

    async def fork(
        self,
        run: str,
        *,
        from_step: str | None = None,
        items: Sequence[int] | None = None,
        changes: Changes = UNCHANGED,
        key: str | None = None,
    ) -> Continued:
        """A new run of the same items in which `from_step` and what depends on it run again, and what `changes` reaches."""
        request = ContinueRun(
            RunId(run),
            NO_RUN,
            items=None if items is None else list(items),
            from_step=from_step,
            flow=None if changes.flow is None else await self._requests.flow_id(changes.flow),
            inputs=None if changes.inputs is None else [payloads.write(value) for value in changes.inputs],
            variables=None if changes.variables is None else payloads.write(changes.variables),
            overrides=None if changes.overrides is None else payloads.write(changes.overrides),
            tags=changes.tags,
            run_key=key,
        )
        return await self.start(request)

    async def start(self, request: ContinueRun) -> Continued:
        """A retry or fork as the orchestrator takes it; `into` is chosen here."""
        home = await self._home(request.run)
        into = new_run_id_on(home, (await self._requests.info()).partitions)
        return await self._requests.ask(structs.replace(request, into=into), Continued)

    async def _home(self, run: str) -> Partition:
        return (await self._requests.get_run(run)).summary.partition

    async def _asleep(self, run: str, item: int | None) -> list[StepStatus]:
        found: list[StepStatus] = []
        first, more = 0, True
        while more:
            page = await self._requests.ask(GetSteps(RunId(run), item, first), Steps)
            found += [step for step in page.steps if step.status == "sleeping"]
            more = page.more and bool(page.steps)
            if more:
                first = page.steps[-1].item + 1
        return found
