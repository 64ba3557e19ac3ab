"""A deployment to measure on, with its workers present, and the meters around a measured stretch."""

from __future__ import annotations

import asyncio
import cProfile
import os
import pstats
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from stepmesh.client import Client
from stepmesh_cli.bench.processes import mib, nats_server_pid, usage
from stepmesh_cli.bench.settings import BenchSettings
from stepmesh_cli.bench.traffic import CountedDeployment, Traffic
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.errors import CommandError
from stepmesh_cli.settings import worker_processes

_WORKERS_WITHIN_S = 30.0


@dataclass(slots=True)
class Meter:
    """A measured stretch: seconds, and the CPU seconds that each process spent in it."""

    seconds: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict[str, float])
    peak_rss_mb: dict[str, float] = field(default_factory=dict[str, float])

    def per_unit(self, units: int) -> dict[str, float]:
        """CPU µs per unit, by process."""
        return {name: round(spent / units * 1e6, 2) for name, spent in self.cpu_s.items()}


@dataclass(slots=True)
class Stage:
    """What a scenario works with."""

    settings: BenchSettings
    deployment: CountedDeployment
    client: Client

    @asynccontextmanager
    async def measured(self) -> AsyncGenerator[Meter]:
        """Meter what happens inside; with `profile`, print where this process's time went."""
        meter, profiler = Meter(), cProfile.Profile() if self.settings.profile else None
        before = {name: spent for name, pid in self._pids().items() if (spent := usage(pid)) is not None}
        if profiler is not None:
            profiler.enable()
        started = time.perf_counter()
        yield meter
        meter.seconds = time.perf_counter() - started
        if profiler is not None:
            profiler.disable()
            pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(30)
        for name, pid in self._pids().items():
            spent = usage(pid)
            if spent is not None and name in before:
                meter.cpu_s[name] = spent.cpu_s - before[name].cpu_s
                meter.peak_rss_mb[name] = mib(spent.peak_rss)

    def resident(self) -> dict[str, int]:
        """Bytes that each process has in memory."""
        return {name: spent.rss for name, pid in self._pids().items() if (spent := usage(pid)) is not None}

    @property
    def traffic(self) -> Traffic:
        """What went through the broker so far."""
        return self.deployment.traffic

    def _pids(self) -> dict[str, int]:
        pids = {"orchestrator": os.getpid()}
        if self.deployment.supervisor is not None:
            pids |= self.deployment.supervisor.pids
        broker = nats_server_pid(os.getpid()) if self.settings.broker == "embedded" else None
        return pids if broker is None else {**pids, "nats-server": broker}

    def info(self) -> dict[str, Any]:
        """What was durable."""
        return {"durability": self.deployment.node.ports.journal.durability}


@asynccontextmanager
async def stage(
    settings: BenchSettings,
    *,
    with_workers: bool = True,
    data: Path | None = None,
    worker: str = "stepmesh_cli.bench.worker",
    pool: str = "bench",
) -> AsyncGenerator[Stage]:
    """A deployment with `settings.workers` workers of the module `worker`, all of them heard."""
    in_memory = settings.broker == "memory"
    made = import_module(worker).make_worker if with_workers else None
    own = tuple(made(settings.namespace) for _ in range(settings.workers)) if in_memory and made else ()
    processes = () if in_memory or not with_workers else worker_processes((worker,), settings.workers)
    wanted = DeploymentSettings(
        broker=settings.broker,
        journal=settings.journal,
        data_dir=data or settings.data,
        namespace=settings.namespace,
        workers=own,
        processes=processes,
        say=_quiet,
    )
    async with CountedDeployment(wanted) as deployment:
        if with_workers:
            await until_present(deployment, settings.workers, pool)
        yield Stage(settings, deployment, await deployment.client())


async def until_present(deployment: Deployment, workers: int, pool: str = "bench") -> None:
    """Returns when so many workers of the pool were heard. Raises `CommandError`."""
    deadline = time.monotonic() + _WORKERS_WITHIN_S
    while deployment.node.presence.workers(pool) < workers:
        if time.monotonic() > deadline:
            raise CommandError(f"the {workers} bench workers did not come within {_WORKERS_WITHIN_S:.0f} s")
        await asyncio.sleep(0.02)


def _quiet(line: str) -> None:
    """Worker processes greet; a table of figures is no place for that."""
    if "Error" in line or "SM-" in line:
        print(line, file=sys.stderr)
