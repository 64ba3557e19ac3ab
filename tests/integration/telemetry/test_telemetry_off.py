"""Off means off: nothing of OpenTelemetry is imported by client, worker and node unless something is configured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, os, sys
from stepmesh import Worker
from stepmesh.telemetry import configured
from stepmesh_cli.deployment import Deployment, DeploymentSettings

worker = Worker(pool="cpu")

@worker.component
async def one() -> int:
    return 1

async def main():
    async with Deployment(DeploymentSettings(workers=(worker,))) as deployment:
        client = await deployment.client()
        flow = {"name": "f", "steps": [{"id": "a", "component": "/cpu/one", "input": {}}], "output": {"$step": "a"}}
        assert await client.run(flow, None, timeout=30) == 1
        assert (client.instrument is None) == (configured("stepmesh-client") is None)

asyncio.run(main())
print(any(name.startswith("opentelemetry") for name in sys.modules))
"""


def imported(environment: dict[str, str]) -> bool:
    base = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "STEPMESH_"))}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=base | environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "True"


@pytest.mark.parametrize("disabled", [False, True])
def test_nothing_is_imported(disabled: bool, tmp_path: Path) -> None:
    told = {"OTEL_SDK_DISABLED": "true", "STEPMESH_TRACE_FILE": str(tmp_path / "spans.jsonl")} if disabled else {}
    assert not imported(told)
    assert not (tmp_path / "spans.jsonl").exists()


def test_a_span_file_turns_it_on_for_the_whole_process(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    assert imported({"STEPMESH_TRACE_FILE": str(path)})
    text = path.read_text()
    assert all(f'"stepmesh.kind":"{kind}"' in text for kind in ("submit", "run", "item", "attempt", "queue", "execute"))
