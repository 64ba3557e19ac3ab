"""Runs test cases through a deployment: one per configuration, its cases side by side.

Invariant: every case ends with a verdict, whatever happens to its run; a run that does not end is cancelled after `timeout_s`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from stepmesh import Client, FlowInvalid, RequestRefused, RunHandle, WaitTimeout
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.suites import Group, Suite
from stepmesh_orchestrator.core.flow.testcases import Case, compare

AT_ONCE = 32
"""Cases of one deployment that run side by side."""
_INVALID_INPUT = "SM-5001"


@dataclass(frozen=True, slots=True)
class Settings:
    """`broker`, `journal`, `store` and `namespace` as `DeploymentSettings` has them; `timeout_s` per case."""

    broker: str = "memory"
    journal: str = "memory"
    timeout_s: float = 60.0
    store: str | None = None
    namespace: str = "default"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`actual` is the FlowResult that came out, None when none did. `differences`: one line each; empty = passed."""

    suite: Suite
    case: Case
    actual: dict[str, Any] | None
    differences: tuple[str, ...]
    duration_ms: int

    @property
    def passed(self) -> bool:
        """As expected."""
        return not self.differences


async def run_group(group: Group, settings: Settings, ended: Callable[[Verdict], None]) -> list[Verdict]:
    """Every case of the group, in order; `ended` hears each as it ends. Raises `StepmeshError` when the deployment does not work."""
    wanted = [(suite, case) for suite in group.suites for case in suite.cases]
    if not wanted:
        return []
    wanted_on = DeploymentSettings(
        broker=settings.broker, journal=settings.journal, store=settings.store, namespace=settings.namespace, config=group.config
    )
    async with Deployment(wanted_on) as deployment:
        client = await deployment.client()
        return await deployment.guard(run_cases(client, wanted, settings, ended))


async def run_cases(
    client: Client, wanted: Sequence[tuple[Suite, Case]], settings: Settings, ended: Callable[[Verdict], None]
) -> list[Verdict]:
    """Every case in order, by a client of any deployment."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(suite: Suite, case: Case) -> Verdict:
        async with room:
            begun = time.perf_counter()
            actual, trouble = await _run(client, suite, case, settings.timeout_s)
            differences = tuple(trouble) if actual is None else differences_of(case, actual)
            verdict = Verdict(suite, case, actual, differences, round((time.perf_counter() - begun) * 1000))
        ended(verdict)
        return verdict

    return await asyncio.gather(*(one(suite, case) for suite, case in wanted))


def differences_of(case: Case, actual: dict[str, Any]) -> tuple[str, ...]:
    """How a FlowResult differs from what a case expects; one line each."""
    expected = {"outcome": "success"} if case.expected is None else case.expected
    if expected.get("outcome") != actual["outcome"] and "error" in actual:
        error = actual["error"]
        return (f"$.outcome: got failed, expected {expected.get('outcome')}: {error['code']} {error['message']}",)
    return tuple(compare(expected, actual))


async def _run(client: Client, suite: Suite, case: Case, timeout_s: float) -> tuple[dict[str, Any] | None, list[str]]:
    """The FlowResult; or None, and why there is none."""
    try:
        handle = await client.submit(suite.document.value, [case.input], variables=case.variables, overrides=case.overrides)
    except FlowInvalid as problem:
        return None, [problem.message]
    except RequestRefused as problem:
        return as_result(problem), []
    try:
        await handle.wait(timeout_s)
    except WaitTimeout as problem:
        lines = await client.explain(handle.id)
        await client.cancel(handle.id, "the test case took too long")
        return None, [problem.message, *lines]
    return await _result(client, handle), []


async def _result(client: Client, handle: RunHandle) -> dict[str, Any]:
    result: dict[str, Any] = msgspec.json.decode((await client.get_run(handle.id)).results[0].result)
    return result


def as_result(problem: RequestRefused) -> dict[str, Any]:
    """A submission that was refused, as the FlowResult that a case would expect."""
    code = "INVALID_INPUT" if problem.code == _INVALID_INPUT else problem.code
    error = {"code": code, "message": problem.message.removeprefix("INVALID_INPUT: ")}
    return {"outcome": "failed", "error": error if problem.data is None else {**error, "data": problem.data}}
