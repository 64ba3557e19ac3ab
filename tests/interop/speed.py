"""The real worker behind `stepmesh server` against the same worker behind a server that does nothing, in turns. `./dev interop-speed`.

Round trips of one-step runs one after the other, and tasks per second of a batch; each figure the median over the turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.environments import python_with
from tests.interop.deployment import HERE, Server

LATENCIES, BATCH = 300, 12000


@contextmanager
def worker(python: Path, address: str) -> Iterator[None]:
    """The real worker, told where to ask; its log is dropped."""
    environment = {**os.environ, "STEPFLOW_TASKS_URL": address, "STEPFLOW_BLOB_URL": address, "STEPFLOW_LOG_LEVEL": "ERROR"}
    with subprocess.Popen(
        [str(python), str(HERE / "worker.py")], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.kill()


def bare(python: Path) -> dict[str, Any]:
    """Figures of the worker's own limit."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "bare_server.py"), str(LATENCIES), str(BATCH)], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())["port"]
        with worker(python, f"127.0.0.1:{port}"):
            figures: dict[str, Any] = json.loads(server.stdout.readline())
    return figures


def ours(python: Path) -> dict[str, Any]:
    """The same through `stepmesh server`, asked by the real client."""
    config = {
        "plugins": {"builtin": {"type": "builtin"}, "python": {"type": "grpc", "queueName": "python"}},
        "routes": {"/python": [{"plugin": "python"}], "/builtin": [{"plugin": "builtin"}]},
        "storageConfig": {"type": "inMemory"},
    }
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), config) as server, worker(python, server.address):
        done = subprocess.run(
            [str(python), str(HERE / "timed_client.py"), server.address, str(LATENCIES), str(BATCH)],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def main(turns: int) -> None:
    """Print a line per turn, then the medians."""
    python = python_with("stepflow-py-0.13.0", "stepflow-py==0.13.0", "jsonschema")
    seen: dict[str, list[tuple[float, float, float]]] = {"bare": [], "stepmesh": []}
    for _ in range(turns):
        for name, figures in (("bare", bare(python)), ("stepmesh", ours(python))):
            cuts = quantiles(figures["seconds"], n=100)
            seen[name].append((cuts[49] * 1000, cuts[98] * 1000, figures["per_second"]))
            print("{:9} p50 {:5.2f} ms  p99 {:6.2f} ms  {:6.0f} tasks/s".format(name, *seen[name][-1]), flush=True)
    middle = {name: [median(column) for column in zip(*rows, strict=True)] for name, rows in seen.items()}
    for name, row in middle.items():
        print("median {:9} p50 {:5.2f} ms  p99 {:6.2f} ms  {:6.0f} tasks/s".format(name, *row))
    print(f"throughput against the worker's own limit: {middle['stepmesh'][2] / middle['bare'][2]:.0%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
