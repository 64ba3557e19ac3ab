"""The stage that the demo plays on: folders, worker processes, what is told about the machine. No run is known here."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stepmesh_cli.demo import corpus
from stepmesh_cli.demo.corpus import SourceFile
from stepmesh_cli.demo.ledger import VARIABLE
from stepmesh_cli.demo.workers import HICCUP_EVERY, PACE
from stepmesh_cli.processes import WorkerProcess

CPU_WORKERS = 2
COMMAND = (sys.executable, "-m", "stepmesh_cli")


@dataclass(frozen=True, slots=True)
class Stage:
    """`data`: everything that the demo leaves behind. `pace_ms`: by how much each component is slowed down."""

    data: Path
    seed: int
    files: Sequence[SourceFile]
    pace_ms: float = 0.0

    @property
    def ledger(self) -> Path:
        """Folder of the worker processes' ledgers."""
        return self.data / "ledger"

    @property
    def report(self) -> Path:
        """Where the reduce flow writes."""
        return self.data / "report.html"

    def worker_processes(self) -> tuple[WorkerProcess, ...]:
        """Two of pool `cpu`, one of pool `accel`."""
        environment: Mapping[str, str] = {VARIABLE: str(self.ledger), PACE: str(self.pace_ms), **_few_threads()}
        cpu = (*COMMAND, "worker", "stepmesh_cli.demo.workers:cpu")
        accel = (*COMMAND, "worker", "stepmesh_cli.demo.accel:accel")
        numbered = [WorkerProcess(f"cpu.{number + 1}", cpu, environment) for number in range(CPU_WORKERS)]
        return (*numbered, WorkerProcess("accel", accel, environment))

    def about(self, retries: str) -> dict[str, Any]:
        """For the report: versions, machine, how the files were chosen. `retries`: what there is to say about them."""
        made = sum(file.made for file in self.files)
        return {
            "python": platform.python_version(),
            "version": version("stepmesh"),
            "broker": "embedded NATS JetStream",
            "journal": "SQLite, one fsync per frame",
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "seed": self.seed,
            "broken": f"{made} are truncated copies made for the demo." if made else "They come with this Python, as test data.",
            "retries": retries,
        }


def set_up(data: Path, seed: int, count: int, pace_ms: float = 0.0) -> Stage:
    """Make the data folder and choose the files."""
    data.mkdir(parents=True, exist_ok=True)
    return Stage(data, seed, corpus.choose(seed, count, data / "truncated"), pace_ms)


def hiccup_note() -> str:
    """Why there are retries in a run without trouble."""
    return f"The first attempt of “measure” fails on purpose for about one file in {HICCUP_EVERY}; onError: retry heals it."


def _few_threads() -> dict[str, str]:
    """NumPy's libraries would start a thread per core in each process."""
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
