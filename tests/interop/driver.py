"""The unmodified `StepflowClient`, driven over pipes: a JSON line in, a JSON line out. Run by the interpreter of its own environment."""

import asyncio
import json
import sys
from importlib import import_module
from typing import Any

import grpc
from google.protobuf import json_format
from stepflow_py import StepflowClient


def plain(message: Any) -> Any:
    """A message, or a list of them, as JSON."""
    if isinstance(message, list):
        return [plain(one) for one in message]
    return json_format.MessageToDict(message, preserving_proto_field_name=True) if hasattr(message, "DESCRIPTOR") else message


async def answer(client: StepflowClient, channel: grpc.aio.Channel, call: str, options: dict[str, Any]) -> Any:
    """One call by its name: a method of the client, `events`, or `rpc`."""
    if call == "events":
        return [plain(event) async for event in client.status_events(**options)]
    if call == "rpc":
        service = options["service"]
        messages = import_module(f"stepflow_py.proto.{service}_pb2")
        stubs = import_module(f"stepflow_py.proto.{service}_pb2_grpc")
        stub = next(getattr(stubs, name) for name in dir(stubs) if name.endswith("ServiceStub"))(channel)
        request = json_format.ParseDict(options["request"], getattr(messages, f"{options['method']}Request")())
        called = getattr(stub, options["method"])(request, timeout=30)
        return [plain(message) async for message in called] if hasattr(called, "__aiter__") else plain(await called)
    return plain(await getattr(client, call)(**options))


def read(loop: asyncio.AbstractEventLoop, lines: "asyncio.Queue[str]") -> None:
    """Pass on lines as they come; "" at the end."""
    while line := sys.stdin.readline():
        loop.call_soon_threadsafe(lines.put_nowait, line)
    loop.call_soon_threadsafe(lines.put_nowait, "")


async def main(address: str) -> None:
    """Answer until stdin ends."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop.run_in_executor(None, read, loop, lines)
    async with StepflowClient.connect(address) as client:
        channel = grpc.aio.insecure_channel(address)

        async def one(request: dict[str, Any]) -> None:
            try:
                told: dict[str, Any] = {"result": await answer(client, channel, request["call"], request["options"])}
            except grpc.aio.AioRpcError as problem:
                told = {"status": problem.code().name, "details": problem.details()}
            except Exception as problem:
                told = {"problem": repr(problem)}
            print(json.dumps({"id": request["id"], **told}), flush=True)

        tasks = set()
        while line := await lines.get():
            task = asyncio.create_task(one(json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await channel.close()


asyncio.run(main(sys.argv[1]))
