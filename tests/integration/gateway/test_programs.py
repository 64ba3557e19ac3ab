"""Programs that are given a gateway's address: `stepmesh worker`, a module that serves itself, `stepmesh submit`, blobs in a component."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stepmesh_cli import exits
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_gateway.server import Gateway
from stepmesh_gateway.settings import GatewaySettings

MODULE = """
from stepmesh import Context, Worker

worker = Worker("cpu")

@worker.component
async def keep(text: str, context: Context) -> str:
    return await context.put_blob({"kept": text})

@worker.component
def read(blob: str, context: Context) -> str:
    return context.block_on(context.get_blob(blob))["kept"]

if __name__ == "__main__":
    worker.serve()
"""
FLOW = """
name: through
steps:
  - {id: keep, component: /cpu/keep, input: {$input: $}}
  - {id: read, component: /cpu/read, input: {$step: keep}}
output: {$step: read}
"""
PATIENCE_S = 40.0


class Programs:
    """Started in one folder, with the gateway's address in the environment."""

    def __init__(self, folder: Path, gateway: Gateway) -> None:
        self.folder = folder
        self.environment = {**os.environ, "STEPMESH_URL": f"grpc://127.0.0.1:{gateway.port}"}
        (folder / "app.py").write_text(MODULE)
        (folder / "flow.yaml").write_text(FLOW)

    async def start(self, *command: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=self.folder,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def end(self, process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
        out, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        return process.returncode, out.decode(), errors.decode()


@pytest.fixture
async def programs(tmp_path: Path) -> AsyncIterator[Programs]:
    async with Deployment(DeploymentSettings()) as deployment, Gateway(await deployment.connect(), GatewaySettings()) as gateway:
        yield Programs(tmp_path, gateway)


@pytest.mark.parametrize("worker", [("-m", "stepmesh_cli", "worker", "app.py"), ("app.py",)], ids=["command", "module"])
async def test_a_worker_and_a_submission_through_a_gateway(programs: Programs, worker: tuple[str, ...]) -> None:
    process = await programs.start(*worker)
    submitted = await programs.start("-m", "stepmesh_cli", "submit", "flow.yaml", "--input-json", '"hello"', "--wait")
    code, out, errors = await programs.end(submitted)
    assert code == 0, errors
    assert json.loads(out) == {"outcome": "success", "result": "hello"}
    process.send_signal(signal.SIGTERM)
    code, _, errors = await programs.end(process)
    assert code == 0, errors


async def test_a_worker_of_another_namespace_is_told_so(programs: Programs) -> None:
    process = await programs.start("-m", "stepmesh_cli", "worker", "app.py", "--namespace", "elsewhere")
    code, _, errors = await programs.end(process)
    assert code not in (exits.OK, None)
    assert "SM-7302" in errors
    assert "STEPMESH_NAMESPACE" in errors


async def test_an_address_where_no_gateway_answers_is_told(programs: Programs) -> None:
    programs.environment["STEPMESH_URL"] = "grpc://127.0.0.1:1"
    code, _, errors = await programs.end(await programs.start("-m", "stepmesh_cli", "pools"))
    assert code == exits.UNREACHABLE
    assert "no gateway answers at grpc://127.0.0.1:1" in errors
