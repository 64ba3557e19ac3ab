"""docs/api.md: its session against a real server, its tables and figures against the source."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import msgspec
from tests.acceptance.servers import serving
from tests.documentation.page import PROGRAMS, Page, matches

from stepmesh_gateway.http.app import ROUTES
from stepmesh_gateway.http.events import HEARTBEAT_S
from stepmesh_gateway.settings import Limits
from stepmesh_gateway.translate.status_events import EventType
from stepmesh_orchestrator.config.models import LimitsConfig

PAGE = Page.of("docs/api.md")


def test_the_session_is_as_shown(tmp_path: Path) -> None:
    PAGE.write(tmp_path)
    environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
    with serving("--worker", str(tmp_path / "greeter.py")) as server:
        server.until("worker of pool cpu")
        for command in PAGE.commands():
            line = command.line.replace("127.0.0.1:7840", server.address)
            done = subprocess.run(
                ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            said = done.stdout.replace("\r", "")
            assert matches(command.shown, said), f"$ {line}\n--- shown\n{command.shown}\n--- said\n{said}\n{done.stderr}"
    assert len(PAGE.commands()) >= 10


def test_the_table_of_routes_is_the_registry() -> None:
    rows = re.findall(r"^\| ((?:(?:GET|POST|PUT|PATCH|DELETE)(?:, )?)+) (`/[^|]*) \|", PAGE.text, re.M)
    told = {(method, path) for methods, cell in rows for method in methods.split(", ") for path in re.findall(r"`(/[^`]*)`", cell)}
    assert told == {(route.method, route.path.replace(":path", "")) for route in ROUTES}
    for route in ROUTES:
        row = next(
            line
            for line in PAGE.text.splitlines()
            if route.method in re.split("[ ,|]+", line.partition("`")[0]) and f"`{route.path.replace(':path', '')}`" in line
        )
        for field in msgspec.structs.fields(route.query):
            assert f"`{field.encode_name}`" in row


def test_the_table_of_limits_is_the_source() -> None:
    keys = {field.alias: name for name, field in LimitsConfig.model_fields.items()}
    section = PAGE.text.split("## Limits")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", section, re.M)
    assert len(rows) >= 9
    for key, value in rows:
        assert getattr(Limits(), keys[key]) == float(value.replace(",", "")) == LimitsConfig.model_fields[keys[key]].default


def test_figures_in_the_text_are_the_source() -> None:
    assert f"a comment every {HEARTBEAT_S:g} s" in PAGE.text
    assert all(f"`{kind.name.lower()}`" in PAGE.text for kind in EventType)
