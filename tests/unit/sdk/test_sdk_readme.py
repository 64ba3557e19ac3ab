"""The README's code runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[3] / "sdk" / "README.md"


@pytest.fixture
def blocks(tmp_path):
    found = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    for name, text in zip(("hello.py", "check.py", "ask.py", "produce.py"), found, strict=True):
        (tmp_path / name).write_text(text)
    return tmp_path


def run(folder, *command):
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_components_do_what_their_check_says(blocks):
    done = run(blocks, "check.py")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_flow_is_the_document_that_it_looks_like(blocks):
    done = run(blocks, "-c", "import ask; print(ask.flow.to_json())")
    assert done.stdout.strip() == (
        '{"name":"greet","steps":[{"id":"greeting","component":"/cpu/hello","input":{"name":{"$input":"name"},"times":2},'
        '"onError":{"action":"retry","maxRetries":3}}],"output":{"first":{"$step":"greeting","path":"$[0]"},"all":{"$step":"greeting"}}}'
    )


PRODUCED = """
import asyncio
from hello import worker
from produce import produce
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh.client import Client

async def orders():
    for number in range(5):
        yield {"name": f"n{number}"}

async def main():
    async with Deployment(DeploymentSettings(workers=(worker,))) as deployment:
        client = Client(await deployment.connect())
        print(await produce(client, orders(), [{"name": "a"}, {"name": 7}, {"name": "c"}]))
        print(sorted(str(run.run_key) for run in await client.list_runs()))

asyncio.run(main())
"""


def test_the_producer_submits_and_tells_what_failed(blocks):
    done = run(blocks, "-c", PRODUCED)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["[1]", str(["backlog", *(f"order-n{number}" for number in range(5))])]


def test_every_module_of_the_map_exists():
    named = re.findall(r"`(\w+\.py)`", README.read_text().split("## Map")[1])
    assert len(named) > 10
    assert [name for name in named if not (README.parent / "stepmesh" / name).is_file()] == []
