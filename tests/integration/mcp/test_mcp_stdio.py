"""An MCP server on stdio as a plugin: its tools are components, at `/<plugin>/<tool>`, with no line of code."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.integration.mcp.bare_server import NAMED, PIXEL, SUM, TOOLS
from tests.integration.mcp.rig import bare, call, deployed, failure, offered, step, until

from stepmesh.errors import StepmeshError, WaitTimeout
from stepmesh_broker.protocol.api import GetSteps, Steps
from stepmesh_broker.protocol.ids import RunId
from stepmesh_cli.main import main
from stepmesh_components import mcp_server


async def test_hello_at_its_documented_path() -> None:
    async with deployed({"fs": bare()}) as client:
        assert await call(client, "/fs/hello", {"name": "Ann"}) == "Hello, Ann!"


async def test_a_route_may_give_it_another_path() -> None:
    async with deployed({"fs": bare()}, routes={"/files/{*component}": [{"plugin": "fs"}]}) as client:
        assert await call(client, "/files/hello", {"name": "Bob"}) == "Hello, Bob!"


@pytest.mark.parametrize(
    ("component", "input", "output"),
    [
        ("/fs/add", {"a": 2**70, "b": 1}, {"sum": 2**70 + 1}),
        ("/fs/texts", {"texts": ['{"a": 1}']}, '{"a": 1}'),
        ("/fs/texts", {"texts": []}, None),
        ("/fs/texts", {"texts": ["a", "b"]}, [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        ("/fs/picture", None, [{"type": "text", "text": "a pixel"}, {"type": "image", "data": PIXEL, "mimeType": "image/png"}]),
    ],
)
async def test_what_a_tool_gives_is_the_output(component: str, input: Any, output: Any) -> None:
    async with deployed({"fs": bare()}) as client:
        assert await call(client, component, input) == output


@pytest.mark.parametrize(
    ("component", "input", "code", "message", "data"),
    [
        ("/fs/fail", {"texts": ["no luck", "today"]}, "COMPONENT_FAILED", "no luck\ntoday", {"tool": "fail"}),
        ("/fs/fail", {"texts": []}, "COMPONENT_FAILED", "the tool fail failed, and the MCP server fs did not say why", {}),
        ("/fs/refuse", {"code": -32602, "message": "odd"}, "INVALID_INPUT", "odd", {"rpc_code": -32602, "server": "fs"}),
        ("/fs/refuse", {"code": -32000, "message": "its own"}, "COMPONENT_FAILED", "its own", {"rpc_code": -32000}),
        ("/fs/refuse", {"code": -32601, "message": "gone"}, "COMPONENT_NOT_FOUND", "gone", {"rpc_code": -32601}),
        ("/fs/liar", None, "COMPONENT_FAILED", "Invalid structured content returned by tool liar: 'many' is not", {"tool": "liar"}),
        ("/fs/helo", None, "COMPONENT_NOT_FOUND", "the MCP server fs has no tool helo: did you mean hello?", None),
        ("/fs/hello", [1], "INVALID_INPUT", "the input of an MCP tool is an object", {"path": "$"}),
    ],
)
async def test_failures_keep_the_text_of_the_server(component: str, input: Any, code: str, message: str, data: Any) -> None:
    async with deployed({"fs": bare()}) as client:
        problem = await failure(client, component, input)
    assert problem.error_code == code
    assert problem.error_message.startswith(message)
    assert (data or {}).items() <= (problem.data or {}).items()


async def test_a_failed_tool_is_retried_only_if_the_step_says_so() -> None:
    async with deployed({"fs": bare()}) as client:
        given = step("/fs/fail", {"texts": ["no"]}, onError={"action": "retry", "maxRetries": 2, "backoff": {"initial": "10ms"}})
        handle = await client.submit(given, [None])
        await handle.wait(30)
        steps = (await client.requests.ask(GetSteps(RunId(handle.id), 0), Steps)).steps
    assert [one.attempt for one in steps] == [3]


async def test_components_are_listed_with_the_schemas_of_the_tools() -> None:
    async with deployed({"fs": bare()}) as client:
        await call(client, "/fs/hello", {"name": "Ann"})
        found = await offered(client, "fs")
    assert set(found) == {f"/fs/{name}" for name in TOOLS}
    assert found["/fs/hello"].description == "Says hello."
    assert json.loads(found["/fs/hello"].input_schema) == NAMED
    assert found["/fs/hello"].output_schema is None
    assert json.loads(found["/fs/add"].output_schema) == SUM


async def test_tools_that_come_and_go_are_noticed() -> None:
    async with deployed({"fs": bare()}) as client:
        assert await call(client, "/fs/grow", {"name": "late"}) == "grown"
        assert await call(client, "/fs/late") == "late it is"
        async with asyncio.timeout(10):
            while "/fs/late" not in await offered(client, "fs"):
                await asyncio.sleep(0.02)
        assert await call(client, "/fs/shrink", {"name": "late"}) == "shrunk"
        async with asyncio.timeout(10):
            while "/fs/late" in await offered(client, "fs"):
                await asyncio.sleep(0.02)
        assert (await failure(client, "/fs/late")).error_code == "COMPONENT_NOT_FOUND"


async def test_calls_run_side_by_side_over_one_connection(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    async with deployed({"fs": bare("--starts", str(starts))}) as client:
        handle = await client.submit(step("/fs/meet", {"count": 20}), [None] * 20, max_concurrency=0)
        assert await handle.result(30) == ["met"] * 20
    assert len(starts.read_text().splitlines()) == 1


async def test_a_server_that_dies_is_started_again_and_its_calls_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    starts = tmp_path / "starts"
    async with deployed({"fs": bare("--starts", str(starts))}) as client:
        assert await call(client, "/fs/die", {"times": 2, "words": "last words"}) == "alive at start 3"
    assert len(starts.read_text().splitlines()) == 3
    told = [record.getMessage() for record in caplog.records if record.name == "stepmesh.mcp"]
    assert len(told) == 2
    assert "the MCP server fs ended and is started again" in told[0]
    assert "last words" in told[0]


async def test_the_last_words_are_in_the_error(tmp_path: Path) -> None:
    async with deployed({"fs": bare("--starts", str(tmp_path / "starts"))}) as client:
        problem = await failure(client, "/fs/die", {"times": 100, "words": "out of paper"})
    assert problem.error_code == "UNREACHABLE"
    assert "the MCP server fs ended during the call" in problem.error_message
    assert "  out of paper" in problem.error_message.splitlines()
    assert problem.data["stderr"][-1] == "out of paper"


async def test_a_server_that_is_killed_between_calls_is_there_again(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    async with deployed({"fs": bare("--starts", str(starts))}) as client:
        before = (await call(client, "/fs/surroundings"))["pid"]
        os.kill(before, signal.SIGKILL)
        await until("a second start", lambda: len(starts.read_text().splitlines()) == 2)
        assert (await call(client, "/fs/surroundings"))["pid"] != before


async def test_it_ends_with_the_deployment(tmp_path: Path) -> None:
    async with deployed({"fs": bare("--starts", str(tmp_path / "starts"))}) as client:
        pid = (await call(client, "/fs/surroundings"))["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_its_environment_is_what_the_plugin_gives_and_a_safe_minimum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    plugin = bare("${FLAG}", "$${PLAIN}", env={"TOKEN": "${TOKEN}", "MODE": "${MODE:-quiet}"})
    async with deployed({"fs": plugin}, tmp_path, {"TOKEN": "t0k3n", "FLAG": "--flag"}) as client:
        told = await call(client, "/fs/surroundings")
    assert told["environment"]["TOKEN"] == "t0k3n"
    assert told["environment"]["MODE"] == "quiet"
    assert "PATH" in told["environment"]
    assert "SECRET_OF_OURS" not in told["environment"]
    assert told["arguments"] == ["--flag", "${PLAIN}"]
    assert told["folder"] == str(tmp_path)


async def test_a_cancelled_run_cancels_the_call(tmp_path: Path) -> None:
    began, cancelled = tmp_path / "began", tmp_path / "cancelled"
    async with deployed({"fs": bare()}) as client:
        handle = await client.submit(step("/fs/wait", {"began": str(began), "cancelled": str(cancelled)}), [None])
        await until("the call", began.exists)
        await handle.cancel()
        await until("the cancel", cancelled.exists)
        assert (await handle.wait(10)).summary.status == "cancelled"
        assert await call(client, "/fs/hello", {"name": "Ann"}) == "Hello, Ann!"


async def test_a_limit_cancels_the_call(tmp_path: Path) -> None:
    began, cancelled = tmp_path / "began", tmp_path / "cancelled"
    given = {"began": str(began), "cancelled": str(cancelled)}
    async with deployed({"fs": bare()}, retry={"transportMaxRetries": 0}) as client:
        await call(client, "/fs/hello", {"name": "Ann"})
        problem = await failure(client, "/fs/wait", given, timeout="300ms")
        await until("the cancel", cancelled.exists)
    assert (problem.error_code, problem.error_message) == ("TIMEOUT", "the attempt ran longer than 0.3 s")


async def test_progress_is_the_progress_of_the_step(tmp_path: Path) -> None:
    until_there = tmp_path / "there"
    async with deployed({"fs": bare()}) as client:
        handle = await client.submit(step("/fs/advance", {"until": str(until_there)}), [None])

        async def told() -> Any:
            found = (await client.requests.ask(GetSteps(RunId(handle.id), 0), Steps)).steps[0]
            return found.fraction, found.details

        async with asyncio.timeout(20):
            while (await told())[0] is None:
                await asyncio.sleep(0.05)
        fraction, details = await told()
        until_there.touch()
        assert await handle.result(20) == "there"
    assert fraction == 0.25
    assert json.loads(details) == {"done": 1, "message": "a quarter"}


async def test_a_command_that_is_not_there_fails_its_own_steps_only(caplog: pytest.LogCaptureFixture) -> None:
    async with deployed({"bad": {"type": "mcp", "command": "no-such-server"}, "fs": bare()}) as client:
        problem, hello = await asyncio.gather(failure(client, "/bad/x"), call(client, "/fs/hello", {"name": "Ann"}))
    assert hello == "Hello, Ann!"
    assert problem.error_code == "UNREACHABLE"
    assert problem.error_message == "the MCP server bad (no-such-server) cannot be reached: No such file or directory"
    assert sum("cannot be reached" in record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING) == 1


async def test_a_server_that_ends_at_once_says_why() -> None:
    plugin = {"type": "mcp", "command": sys.executable, "args": ["-c", "import sys; sys.exit('no licence')"]}
    async with deployed({"bad": plugin}) as client:
        problem = await failure(client, "/bad/x")
    assert problem.error_code == "UNREACHABLE"
    assert "no licence" in problem.error_message


async def test_a_server_that_never_answers_is_given_up_and_tried_again(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    async with deployed({"mute": bare("--silent", "--starts", str(starts), startTimeoutSecs=1)}) as client:
        problem = await failure(client, "/mute/hello")
    assert problem.error_code == "UNREACHABLE"
    assert "it did not tell its tools within 1 s" in problem.error_message
    assert "the server is up" in problem.error_message
    assert len(starts.read_text().splitlines()) > 1


async def test_a_step_waits_while_its_server_starts() -> None:
    slow = {"type": "mcp", "command": "sh", "args": ["-c", f"sleep 1; exec {sys.executable} {bare()['args'][0]}"]}
    async with deployed({"fs": slow}) as client:
        handle = await client.submit(step("/fs/hello", {"name": "Ann"}), [None])
        with pytest.raises(WaitTimeout):
            await handle.wait(0.3)
        assert await handle.result(20) == "Hello, Ann!"
        steps = (await client.requests.ask(GetSteps(RunId(handle.id), 0), Steps)).steps
    assert [one.attempt for one in steps] == [1]


async def test_a_server_that_ends_at_an_unknown_first_message_is_spoken_to_in_the_older_way() -> None:
    async with deployed({"fs": bare("--first-only")}) as client:
        assert await call(client, "/fs/hello", {"name": "Ann"}) == "Hello, Ann!"


async def test_large_texts_pass() -> None:
    text = "ä" * 1_000_000
    async with deployed({"fs": bare()}) as client:
        assert await call(client, "/fs/texts", {"texts": [text]}) == text


async def test_a_server_that_prints_to_its_stdout_is_told_and_understood(caplog: pytest.LogCaptureFixture) -> None:
    async with deployed({"fs": bare("--chatty")}) as client:
        assert await call(client, "/fs/hello", {"name": "Ann"}) == "Hello, Ann!"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "the MCP server fs writes to its stdout what is no message: Welcome to the server!"
    ]


async def test_a_url_that_is_none_fails_its_own_steps_only() -> None:
    async with deployed({"web": {"type": "mcp", "url": "nowhere"}, "fs": bare()}) as client:
        problem = await failure(client, "/web/hello")
        assert await call(client, "/fs/hello", {"name": "Ann"}) == "Hello, Ann!"
    assert problem.error_code == "UNREACHABLE"
    assert "the MCP server web (nowhere) cannot be reached" in problem.error_message


async def test_without_the_package_the_plugin_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_server, "find_spec", lambda _name: None)
    with pytest.raises(StepmeshError, match="the plugin fs needs the package mcp, which this install lacks") as caught:
        await deployed({"fs": bare()}).__aenter__()
    assert (caught.value.code, caught.value.hint) == ("SM-0130", "pip install 'stepmesh[mcp]'")


def test_test_cases_of_flows_use_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stepmesh.yaml").write_text(json.dumps({"plugins": {"fs": bare()}}))
    cases = [{"name": "ann", "input": {"name": "Ann"}, "output": {"outcome": "success", "result": "Hello, Ann!"}}]
    flow = {"steps": [{"id": "s", "component": "/fs/hello", "input": {"$input": "$"}}], "output": {"$step": "s"}, "test": {"cases": cases}}
    (tmp_path / "hello.yaml").write_text(json.dumps(flow))
    assert main(["test", str(tmp_path)]) == 0, capsys.readouterr().out


async def test_behind_a_server_process_over_http(tmp_path: Path) -> None:
    config = json.dumps({"plugins": {"fs": bare()}, "routes": {"/fs/{*component}": [{"plugin": "fs"}]}})
    command = (sys.executable, "-m", "stepmesh_cli", "server", "-p", "0", "--config-stdin")
    server = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path)
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(config.encode())
    server.stdin.close()
    try:
        port = json.loads(await asyncio.wait_for(server.stdout.readline(), 30))["port"]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as http:
            flow = (await http.post("/flows", json={"flow": step("/fs/hello", {"name": "Ann"})})).json()["flowId"]
            ran = (await http.post("/runs", json={"flowId": flow, "input": [None], "wait": True})).json()
            listed = (await http.get("/components")).json()["components"]
    finally:
        server.terminate()
        assert await asyncio.wait_for(server.wait(), 30) == 0
    assert [item["output"] for item in ran["results"]] == ["Hello, Ann!"]
    (hello,) = (one for one in listed if one["path"] == "/fs/hello")
    assert (hello["plugin"], hello["inputSchema"]) == ("fs", NAMED)
