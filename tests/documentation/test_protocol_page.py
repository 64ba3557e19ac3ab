"""docs/protocol.md: its client runs, its tables are the descriptors and the settings."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.documentation.page import Page
from tests.environments import python_with
from tests.unit.gateway.door import METHODS, opened

from stepmesh_gateway.rpc.runs import LISTED, SOME_STEPS_BYTES
from stepmesh_gateway.rpc.serving import ROOM, options
from stepmesh_gateway.settings import Limits

PAGE = Page.of("docs/protocol.md")


async def test_the_real_client_runs_as_shown(tmp_path: Path) -> None:
    (client,) = PAGE.write(tmp_path)
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
