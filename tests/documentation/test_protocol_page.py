"""docs/protocol.md: its client runs, its tables are the descriptors and the settings."""

from __future__ import annotations

import asyncio
import re
import sys
import uuid
from pathlib import Path

import msgspec
import pytest
from tests.documentation.page import Page
from tests.environments import python_with
from tests.unit.gateway.door import METHODS, opened

from stepmesh import Client
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.submission import MAX_KEY, VERSION, Submission
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_gateway.rpc.runs import LISTED, SOME_STEPS_BYTES
from stepmesh_gateway.rpc.serving import ROOM, options
from stepmesh_gateway.settings import Limits
from stepmesh_orchestrator.core.session import EngineSettings

PAGE = Page.of("docs/protocol.md")


async def test_the_real_client_runs_as_shown(tmp_path: Path) -> None:
    client = PAGE.write(tmp_path)[0]
    python = await asyncio.to_thread(python_with, "stepflow-py-0.13.0", "stepflow-py==0.13.0", "jsonschema")
    async with opened(workers=0) as door:
        process = await asyncio.create_subprocess_exec(
            python, client, f"127.0.0.1:{door.gateway.port}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        said, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    lines = said.decode().split()
    assert lines[:3] == ["Ada", "Bob", "run_created"]
    assert lines[-1] == "run_completed"


@pytest.mark.parametrize(("program", "kind", "scheme"), [("produce.py", "kafka", ""), ("publish.py", "nats", "nats://")])
async def test_producers_start_the_runs_that_the_page_says(
    request: pytest.FixtureRequest, tmp_path: Path, program: str, kind: str, scheme: str
) -> None:
    PAGE.write(tmp_path)
    url, namespace = request.getfixturevalue(f"{kind}_url"), Namespace(f"t{uuid.uuid4().hex[:12]}")
    address = scheme + url.partition("://")[2]
    settings = DeploymentSettings(broker=url, journal="memory", namespace=namespace)
    async with Deployment(settings), Client.connect(url, namespace) as client:
        for _ in range(2):
            process = await asyncio.create_subprocess_exec(
                sys.executable, tmp_path / program, address, f"stepmesh.{namespace}.submit", stderr=asyncio.subprocess.PIPE
            )
            _, errors = await asyncio.wait_for(process.communicate(), 60)
            assert process.returncode == 0, errors.decode()
            async with asyncio.timeout(30):
                while len(found := await client.list_runs(status="completed")) < 3:
                    await asyncio.sleep(0.05)
        assert {run.run_key: run.tags for run in found} == {f"order-{number}": {"shop": "east"} for number in range(3)}
        assert {await client.handle(run.run).result() for run in found} == {0, 1, 2}
        assert len(await client.list_runs()) == 3


def test_the_table_of_a_records_fields_is_the_source() -> None:
    section = PAGE.text.split("\n## Plain records\n")[1].split("\n## ")[0].split("| field | what |")[1]
    listed = {name for names in re.findall(r"^\| ([^|]+) \|", section, re.M) for name in re.findall(r"`(\w+)`", names)}
    assert listed == {field.encode_name for field in msgspec.structs.fields(Submission)}
    assert f"1 to {MAX_KEY} printable characters" in PAGE.text
    assert f"`{VERSION}`, the version of this contract" in PAGE.text
    assert f"{EngineSettings().remember_ended_ms // 3_600_000} hours after" in PAGE.text


def test_every_service_is_listed_with_its_rpcs() -> None:
    section = PAGE.text.split("\n## Services\n")[1].split("\n### ")[0]
    listed = {f"{name}/{rpc}" for name, rpcs in re.findall(r"^\| `([\w.]+)` \| ([\w, ]+) \|", section, re.M) for rpc in rpcs.split(", ")}
    assert listed == set(METHODS)


def test_every_limit_is_listed_with_its_value() -> None:
    section = PAGE.text.split("\n## Limits\n")[1].split("\n## ")[0]
    listed: dict[str, float] = {}
    for names, values in re.findall(r"^\| (`[^|]+`) \| ([\d,]+(?:, \d+)?) \|", section, re.M):
        found = re.findall(r"`(\w+)`", names)
        numbers = values.split(", ") if len(found) > 1 else [values]
        listed.update({name: float(number.replace(",", "")) for name, number in zip(found, numbers, strict=True)})
    defaults = Limits()
    assert listed == {name: float(getattr(defaults, name)) for name in Limits.__struct_fields__}


def test_figures_in_the_text_are_the_source() -> None:
    told = dict(options(Limits()))
    assert told["grpc.keepalive_time_ms"] == told["grpc.keepalive_timeout_ms"] == 10_000
    assert told["grpc.http2.min_recv_ping_interval_without_data_ms"] == 5_000
    assert (ROOM, LISTED, SOME_STEPS_BYTES) == (2, 100, 3 * 1024 * 1024)
    for figure in ("every 10 s", "within 10 s", "from 5 s apart", "above twice that", f"{LISTED} unless `limit`", "(3 MiB)"):
        assert figure in PAGE.text, figure
