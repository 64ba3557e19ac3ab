"""Two public MCP servers, one of Python and one of Node, as their authors publish them: no wrapping code, only a plugin each."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.environments import mcp_servers
from tests.integration.mcp.rig import call, deployed, failure, offered, step, until


@pytest.fixture(scope="session")
def programs() -> str:
    """PATH with the two servers on it."""
    return f"{mcp_servers()}:{os.environ['PATH']}"


@pytest.fixture
def plugins(programs: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """As examples/mcp has them."""
    monkeypatch.setenv("PATH", programs)
    return {
        "time": {"type": "mcp", "command": "mcp-server-time"},
        "files": {"type": "mcp", "command": "mcp-server-filesystem", "args": ["."]},
    }


async def test_the_time_server(plugins: dict[str, Any], tmp_path: Path) -> None:
    async with deployed(plugins, tmp_path) as client:
        now = await call(client, "/time/get_current_time", {"timezone": "Asia/Tokyo"})
        given = {"source_timezone": "UTC", "time": "16:30", "target_timezone": "Asia/Tokyo"}
        converted = await call(client, "/time/convert_time", given)
        wrong = await failure(client, "/time/convert_time", {**given, "target_timezone": "Nowhere"})
        lacking = await failure(client, "/time/convert_time", {"time": "16:30"})
        found = await offered(client, "time")
    assert abs((datetime.fromisoformat(now["datetime"]) - datetime.now().astimezone()).total_seconds()) < 60
    assert converted["time_difference"] == "+9.0h"
    assert converted["target"]["datetime"].endswith("T01:30:00+09:00")
    assert wrong.error_code == "COMPONENT_FAILED"
    assert "No time zone found with key Nowhere" in wrong.error_message
    assert "source_timezone" in lacking.error_message
    assert set(found) == {"/time/get_current_time", "/time/convert_time"}
    assert json.loads(found["/time/convert_time"].input_schema)["required"] == ["source_timezone", "time", "target_timezone"]


async def test_the_filesystem_server(plugins: dict[str, Any], tmp_path: Path) -> None:
    async with deployed(plugins, tmp_path) as client:
        assert await call(client, "/files/write_file", {"path": "a.txt", "content": "größer"}) == {"content": "Successfully wrote to a.txt"}
        assert (tmp_path / "a.txt").read_text() == "größer"
        assert await call(client, "/files/read_text_file", {"path": "a.txt"}) == {"content": "größer"}
        denied = await failure(client, "/files/read_text_file", {"path": "/etc/hostname"})
        near = await failure(client, "/files/read_textfile", {"path": "a.txt"})
    assert denied.error_code == "COMPONENT_FAILED"
    assert denied.error_message.startswith("Access denied - path outside allowed directories")
    assert near.error_code == "COMPONENT_NOT_FOUND"
    assert "did you mean read_text_file" in near.error_message


async def test_many_calls_at_once(plugins: dict[str, Any], tmp_path: Path) -> None:
    path = {"$input": "path"}
    after = {"$if": {"$step": "write"}, "then": False}  # read once it is written
    flow = {
        "steps": [
            {"id": "write", "component": "/files/write_file", "input": {"path": path, "content": {"$input": "text"}}},
            {"id": "read", "component": "/files/read_text_file", "input": {"path": path}, "skip": after},
        ],
        "output": {"$step": "read", "path": "content"},
    }
    async with deployed(plugins, tmp_path) as client:
        handle = await client.submit(flow, [{"path": f"{n}.txt", "text": str(n)} for n in range(100)], max_concurrency=0)
        assert await handle.result(60) == [str(n) for n in range(100)]


async def test_a_killed_server_is_started_again(plugins: dict[str, Any], tmp_path: Path) -> None:
    async with deployed(plugins, tmp_path) as client:
        await call(client, "/time/get_current_time", {"timezone": "UTC"})
        (pid,) = children("mcp-server-time")
        os.kill(pid, signal.SIGKILL)
        handle = await client.submit(step("/time/get_current_time", {"timezone": "UTC"}), [None])
        assert (await handle.result(30))["timezone"] == "UTC"
        await until("another process", lambda: children("mcp-server-time") not in ([], [pid]))
    assert children("mcp-server-time") == []


def children(program: str) -> list[int]:
    """Processes that this one started and that are called so."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            called = (entry / "cmdline").read_text()
        except (OSError, UnicodeDecodeError):
            continue
        if int(status[1]) == os.getpid() and program in called:
            found.append(int(entry.name))
    return found
