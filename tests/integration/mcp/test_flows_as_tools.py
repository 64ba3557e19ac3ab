"""`stepmesh mcp`, as a client of the `mcp` package sees it: flows are tools, on stdio and over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client as McpClient
from mcp import MCPError, StdioServerParameters, stdio_client
from mcp.types import CallToolResult, TextContent
from tests.integration.mcp.bare_server import TOOLS
from tests.integration.mcp.rig import BARE, until

from stepmesh import Client
from stepmesh_cli.deployment import Deployment, DeploymentSettings

COMMAND = [sys.executable, "-m", "stepmesh_cli", "mcp"]
FLOWS = {
    "add.yaml": """
        name: Add up!
        description: Adds two numbers.
        schemas:
          type: object
          $defs: {n: {type: integer}}
          properties:
            input: {type: object, properties: {a: {$ref: "#/$defs/n"}, b: {$ref: "#/$defs/n"}}, required: [a, b]}
            output: {type: integer}
        steps: [{id: sum, component: /fs/add, input: {$input: $}}]
        output: {$step: sum, path: sum}
        """,
    "deep/hello.yml": "{steps: [{id: s, component: /fs/hello, input: {$input: $}}], output: {$step: s}}",
    "fail.json": json.dumps(
        {"name": "fail", "steps": [{"id": "s", "component": "/fs/fail", "input": {"texts": ["no luck"]}}], "output": {"$step": "s"}}
    ),
    "nap.yaml": """
        name: nap
        steps:
          - {id: first, component: /builtin/noop, input: 1}
          - {id: second, component: /builtin/sleep, input: {duration: {$input: seconds}, passthrough: {$step: first}}}
        output: {times: {$step: second}}
        """,
    "greet.yaml": """
        name: greet
        schemas: {type: object, properties: {variables: {type: object, properties: {word: {type: string, env_var: WORD}}}}}
        output: {said: {$variable: word}}
        """,
    "notes.yaml": "{just: some notes}",
    ".aside/broken.yaml": "steps: 5",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flows, and a configuration with an MCP server for them."""
    made = tmp_path_factory.mktemp("flows")
    for name, text in FLOWS.items():
        (made / name).parent.mkdir(exist_ok=True)
        lines = text.splitlines()
        (made / name).write_text("\n".join(line.removeprefix("        ") for line in lines) if len(lines) > 1 else text)
    plugins = {"builtin": {"type": "builtin"}, "fs": {"type": "mcp", "command": sys.executable, "args": [str(BARE)]}}
    (made / "stepmesh.yaml").write_text(json.dumps({"plugins": plugins}))
    return made


@pytest.fixture(scope="module")
def url(folder: Path) -> Generator[str]:
    """`stepmesh mcp --http 0` on the flows."""
    environment = {name: value for name, value in os.environ.items() if name != "STEPMESH_URL"}
    process = subprocess.Popen(
        [*COMMAND, ".", "--http", "0", "--variables", '{"word": "moin"}'], cwd=folder, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())["url"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdout.close()


@asynccontextmanager
async def on_stdio(folder: Path, *arguments: str, mode: str = "auto", **environment: str) -> AsyncGenerator[McpClient]:
    """A client of a `stepmesh mcp` of its own. What that says on stderr is in `stderr` of the folder."""
    server = StdioServerParameters(command=COMMAND[0], args=[*COMMAND[1:], *arguments], cwd=folder, env=environment)
    with (folder / "stderr").open("w") as said:
        async with McpClient(stdio_client(server, errlog=said), mode=mode) as client:
            yield client


def texts(result: CallToolResult) -> list[str]:
    return [block.text for block in result.content if isinstance(block, TextContent)]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_tools_are_the_flows(url: str, mode: str) -> None:
    async with McpClient(url, mode=mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"Add_up", "hello", "fail", "nap", "greet"}
    add = tools["Add_up"]
    assert (add.title, add.description) == ("Add up!", "Adds two numbers.")
    assert add.input_schema["properties"]["a"] == {"$ref": "#/$defs/n"}
    assert add.input_schema["$defs"] == {"n": {"type": "integer"}}
    assert add.output_schema is not None
    assert add.output_schema["properties"] == {"result": {"type": "integer"}}
    assert tools["hello"].input_schema == {"type": "object"}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_call_is_a_run(url: str, mode: str) -> None:
    async with McpClient(url, mode=mode) as client:
        added = await client.call_tool("Add_up", {"a": 2**70, "b": 1})
        hello = await client.call_tool("hello", {"name": "Ann"})
        greeted = await client.call_tool("greet")
    assert (added.structured_content, texts(added), added.is_error) == ({"result": 2**70 + 1}, [str(2**70 + 1)], False)
    assert len((added.meta or {})["stepmesh/run_id"]) == 36
    assert (hello.structured_content, texts(hello)) == (None, ["Hello, Ann!"])
    assert (greeted.structured_content, texts(greeted)) == ({"said": "moin"}, ['{"said":"moin"}'])


async def test_failures_tell_code_message_and_data(url: str) -> None:
    async with McpClient(url) as client:
        failed, refused = await client.call_tool("fail"), await client.call_tool("Add_up", {"a": "x"})
        with pytest.raises(MCPError, match="Unknown tool: Ad_up; nearest: Add_up") as unknown:
            await client.call_tool("Ad_up")
    assert failed.is_error
    assert texts(failed)[0] == "COMPONENT_FAILED: no luck"
    assert (failed.meta or {})["stepmesh/error"] == {
        "code": "COMPONENT_FAILED",
        "message": "no luck",
        "data": {"server": "fs", "tool": "fail"},
    }
    assert "stepmesh/run_id" in (failed.meta or {})
    assert refused.is_error
    assert texts(refused)[0].startswith("SM-5001: INVALID_INPUT: input 0 does not match the flow's input schema")
    assert "$.a" in texts(refused)[1]
    assert unknown.value.code == -32602


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_progress_is_told_step_by_step(url: str, mode: str) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async with McpClient(url, mode=mode) as client:
        result = await client.call_tool("nap", {"seconds": 0.3}, progress_callback=hear)
    assert result.structured_content == {"times": 1}
    assert told[0] == (1, 2, "first completed")
    assert told[1:] in ([], [(2, 2, "second completed")])


async def test_calls_run_side_by_side(url: str) -> None:
    async with McpClient(url) as client:
        began = asyncio.get_running_loop().time()
        results = await asyncio.gather(*(client.call_tool("nap", {"seconds": 1}) for _ in range(10)))
        took = asyncio.get_running_loop().time() - began
    assert [result.structured_content for result in results] == [{"times": 1}] * 10
    assert took < 8, "one after the other would take 10 s"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_stdio_serves_the_same_and_ends_with_its_client(folder: Path, mode: str) -> None:
    async with on_stdio(folder, "add.yaml", "deep", mode=mode) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"Add_up", "hello"}
        assert (await client.call_tool("Add_up", {"a": 1, "b": 2})).structured_content == {"result": 3}
        assert texts(await client.call_tool("hello", {"name": "Bob"})) == ["Hello, Bob!"]
    assert "serving 2 flows as MCP tools on stdin and stdout: Add_up, hello" in (folder / "stderr").read_text()


async def test_variables_may_come_from_the_environment(folder: Path) -> None:
    async with on_stdio(folder, "greet.yaml", WORD="servus") as client:
        assert (await client.call_tool("greet")).structured_content == {"said": "servus"}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_flows_of_a_deployment_by_id_and_a_cancel_that_reaches_the_run(folder: Path, nats_url: str, mode: str) -> None:
    namespace = f"tools-{os.getpid()}-{mode}"
    async with Deployment(DeploymentSettings(broker=nats_url, namespace=namespace)) as deployment:
        stepmesh = await deployment.client()
        flow = await stepmesh.store_flow(folder / "nap.yaml")
        async with on_stdio(folder, flow, "--namespace", namespace, mode=mode, STEPMESH_URL=nats_url) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["nap"]
            call = asyncio.create_task(client.call_tool("nap", {"seconds": 600}))
            running = await only_run(stepmesh, "running")
            call.cancel()
            assert await only_run(stepmesh, "cancelled") == running
            assert (await client.call_tool("nap", {"seconds": 0})).structured_content == {"times": 1}


async def only_run(client: Client, status: str) -> str:
    async with asyncio.timeout(20):
        while not (found := await client.list_runs(status=status)):
            await asyncio.sleep(0.02)
    return found[0].run


async def test_sigterm_ends_it_though_its_client_is_silent(folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "nap.yaml", cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stderr is not None
    await process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    said, _ = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, said) == (0, b"")


def refusal(folder: Path, *arguments: str) -> tuple[int, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEPMESH_")}
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=kept,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "SM-0101 no flow was given"),
        (["nowhere.yaml"], 2, "SM-0108 there is no file or folder nowhere.yaml"),
        ([".aside/broken.yaml"], 2, "SM-2000 .aside/broken.yaml is not a flow that can run"),
        (["empty"], 2, "SM-0108 there is no flow in empty"),
        (["f" * 64, "--config", "stepmesh.yaml"], 2, "SM-0101 --config and --worker are for flows that run in this process"),
        (["f" * 64], 3, "SM-0110 no broker"),
        (["nap.yaml", "--variables", "[1]"], 2, "SM-0108 --variables: --variables wants an object, not a list"),
    ],
)
def test_what_cannot_be_served_is_told(folder: Path, arguments: list[str], code: int, says: str) -> None:
    (folder / "empty").mkdir(exist_ok=True)
    ended, said = refusal(folder, *arguments)
    assert ended == code, said
    assert says in said


def test_a_port_that_is_taken_is_told(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refusal(folder, "nap.yaml", "--http", str(port)) == (
            2,
            f"SM-0112 cannot listen on 127.0.0.1:{port}\n  → another process may: choose another port, or 0 for a free one\n",
        )


async def test_a_flow_served_as_a_tool_may_use_a_tool(folder: Path) -> None:
    """The bare server has what `add.yaml` and `hello.yml` call, so that the whole way is walked: client, flow, server."""
    assert {"add", "hello", "fail"} <= set(TOOLS)
    async with on_stdio(folder, "deep", "--config", "stepmesh.yaml") as client:
        assert texts(await client.call_tool("hello", {"name": "Eve"})) == ["Hello, Eve!"]


async def test_on_stdio_an_unfinished_run_is_cancelled_when_the_client_leaves(folder: Path, nats_url: str) -> None:
    namespace = f"tools-{os.getpid()}-leaves"
    async with Deployment(DeploymentSettings(broker=nats_url, namespace=namespace)) as deployment:
        stepmesh = await deployment.client()
        async with on_stdio(folder, "nap.yaml", "--namespace", namespace, STEPMESH_URL=nats_url) as client:
            call = asyncio.create_task(client.call_tool("nap", {"seconds": 600}))
            await only_run(stepmesh, "running")
        await until("the end of the call", call.done)
        assert await only_run(stepmesh, "cancelled")
        await asyncio.gather(call, return_exceptions=True)
    assert isinstance(call.exception(), MCPError)
