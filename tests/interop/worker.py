"""The unmodified stepflow-py worker with components of every kind. Run by the interpreter of its own environment, never by ours."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import msgspec
from stepflow_py.worker import StepflowContext
from stepflow_py.worker import exceptions as stepflow
from stepflow_py.worker.main import main, server

MARKS = Path(os.environ.get("INTEROP_MARKS", "."))


def mark(name: str, text: str = "x") -> int:
    """Add a line to a file of the test; how many lines it has now."""
    with (MARKS / name).open("a") as file:
        file.write(f"{text}\n")
    return len((MARKS / name).read_text().splitlines())


class Pair(msgspec.Struct):
    """Two numbers."""

    a: int
    b: int


class Sum(msgspec.Struct):
    """Their sum."""

    sum: int


@server.component(id="same", subpath="same")
def same(input: Any) -> Any:
    """What it gets, whatever that is."""
    return input


@server.component
def add(input: Pair) -> Sum:
    """Adds two numbers."""
    return Sum(sum=input.a + input.b)


@server.component(id="by_id_only", subpath="named/differently")
def by_id(input: dict) -> dict:
    """Its id is not its path."""
    return {"seen": input}


@server.component(subpath="greet/{name}")
def greet(input: dict, name: str) -> dict:
    """A path parameter."""
    return {"text": f"{input.get('word', 'hello')} {name}"}


@server.component(subpath="files/{*rest}")
async def files(input: dict, context: StepflowContext, rest: str) -> dict:
    """The rest of the path."""
    return {"rest": rest}


@server.component
async def nap(input: dict) -> dict:
    """Sleeps, and lets the event loop live."""
    mark(input["mark"])
    await asyncio.sleep(input["seconds"])
    return {"slept": input["seconds"]}


@server.component
def block(input: dict) -> dict:
    """Sleeps on the event loop, so that no heartbeat leaves meanwhile."""
    mark(input["mark"])
    time.sleep(input["seconds"])
    return {"blocked": input["seconds"]}


@server.component
def who(input: dict, context: StepflowContext) -> dict:
    """What a context tells."""
    return {"run": context.run_id, "flow": context.flow_id, "step": context.step_id, "attempt": context.attempt}


ERRORS = {
    "value": lambda: ValueError("no good"),
    "type": lambda: TypeError("no good"),
    "key": lambda: KeyError("no good"),
    "connection": lambda: ConnectionError("no good"),
    "timeout": lambda: TimeoutError("no good"),
    "os": lambda: OSError("no good"),
    "stepflow": lambda: stepflow.StepflowError("no good", {"detail": 7}),
    "stepflow-value": lambda: stepflow.StepflowValueError("no good", {"detail": 7}),
    "stepflow-execution": lambda: stepflow.StepflowExecutionError("no good", {"detail": 7}),
    "stepflow-runtime": lambda: stepflow.StepflowRuntimeError("no good", {"detail": 7}),
    "stepflow-component": lambda: stepflow.ComponentNotFoundError("no good"),
    "stepflow-validation": lambda: stepflow.InputValidationError("no good", {"detail": 7}),
}


@server.component
def fail(input: dict) -> dict:
    """Raises what it is asked for; with `until`, only in the attempts before that one."""
    if input.get("until") is not None and mark(input["mark"]) >= input["until"]:
        return {"after": input["until"]}
    raise ERRORS[input["kind"]]()


@server.component
async def keep(input: dict, context: StepflowContext) -> dict:
    """Stores a blob; `text` is stored as bytes."""
    return {"blob": await context.put_blob(input["text"].encode() if "text" in input else input["data"])}


@server.component
async def fetch(input: dict, context: StepflowContext) -> dict:
    """Reads a blob."""
    data = await context.get_blob(input["blob"])
    return {"text": data.decode()} if isinstance(data, bytes) else {"data": data}


@server.component
async def below(input: dict, context: StepflowContext) -> Any:
    """Runs a flow as a sub-run and gives its result."""
    flow = await context.put_blob(input["flow"], blob_type="flow")
    return await context.evaluate_flow_by_id(flow, input["input"])


@server.component
async def many_below(input: dict, context: StepflowContext) -> Any:
    """Several items in one sub-run."""
    flow = await context.put_blob(input["flow"], blob_type="flow")
    return await context.evaluate_run_by_id(flow, input["inputs"], max_concurrency=2)


@server.component
async def start_below(input: dict, context: StepflowContext) -> Any:
    """Starts a sub-run, and fails in the attempts before `until`; then looks at what it started."""
    flow = await context.put_blob(input["flow"], blob_type="flow")
    started = await context.submit_run_by_id(flow, [input["input"]], wait=False)
    if mark(input["mark"], started["run_id"]) < input.get("until", 1):
        raise ValueError("once more")
    return await context.get_run(started["run_id"], wait=True, include_results=True)


@server.component
def die(input: dict) -> dict:
    """Ends the process, the first time."""
    if mark(input["mark"]) == 1:
        os._exit(9)
    return {"times": 2}


@server.component
def big(input: dict) -> dict:
    """A large answer."""
    return {"text": "x" * input["bytes"]}


if __name__ == "__main__":
    main()
