"""The conformance flows through `stepmesh server`: each case by the SDK over gRPC, by REST, and by stepflow.v1's RunsService.

The configuration is the one that lies beside the flows, as a Stepflow server would read it.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from google.protobuf.message_factory import GetMessageClass
from tests.acceptance.pairs import Pair
from tests.acceptance.servers import Server, serving

from stepmesh.client import Client
from stepmesh_broker.pb.stepflow.v1 import common_pb2, flows_pb2, runs_pb2
from stepmesh_cli.cases import Settings, differences_of, run_cases
from stepmesh_cli.suites import Suite, suites_of
from stepmesh_gateway.translate.values import from_value, to_value
from stepmesh_orchestrator.core.flow.testcases import Case

pytestmark = pytest.mark.acceptance
FOLDERS = [Path(__file__).parents[1] / "conformance" / name for name in ("given", "own")]
SERVED = (Pair("memory", "memory"), Pair("nats", "postgres"), Pair("kafka", "broker"))
EXACT = 2**53
Deployed = tuple[Server, list[tuple[Suite, Case]], str]
"""The server, the cases and the namespace."""
Runner = Callable[[Suite, Case], Awaitable[dict[str, Any]]]


@pytest.fixture(scope="module", params=[(folder, pair) for pair in SERVED for folder in FOLDERS], ids=lambda one: f"{one[0].name}-{one[1]}")
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder, pair = request.param
    cases = [(suite, case) for suite in suites_of([folder]) if not suite.inline for case in suite.cases]
    broker, journal = pair.addresses(request)
    namespace = f"t{uuid.uuid4().hex[:12]}"
    kept = ("--namespace", namespace, "--data", str(tmp_path_factory.mktemp("data")))
    with serving("-c", str(folder / "stepflow-config.yml"), "--broker", broker, "--journal", journal, *kept) as server:
        yield server, cases, namespace


async def failures(cases: list[tuple[Suite, Case]], run: Runner) -> list[str]:
    room = asyncio.Semaphore(16)

    async def one(suite: Suite, case: Case) -> list[str]:
        async with room, asyncio.timeout(60):
            differences = differences_of(case, await run(suite, case))
        return [f"{suite.path.name} {case.name}: {'; '.join(differences)}"] if differences else []

    return [line for lines in await asyncio.gather(*(one(suite, case) for suite, case in cases)) for line in lines]


async def test_every_case_by_the_sdk(deployed: Deployed) -> None:
    server, cases, namespace = deployed
    async with Client.connect(f"grpc://{server.address}", namespace) as client:
        verdicts = await run_cases(client, cases, Settings(), lambda _: None)
    assert len(verdicts) == len(cases) > 12
    assert [f"{one.suite.path.name} {one.case.name}: {one.differences}" for one in verdicts if not one.passed] == []


async def test_every_case_by_rest(deployed: Deployed) -> None:
    server, cases, _ = deployed
    async with httpx.AsyncClient(base_url=f"http://{server.address}/api/v1", timeout=60) as http:

        async def run(suite: Suite, case: Case) -> dict[str, Any]:
            stored = (await http.post("/flows", json={"flow": suite.document.value})).json()
            body = {
                "flowId": stored["flowId"],
                "input": [case.input],
                "variables": case.variables,
                "overrides": case.overrides,
                "wait": True,
            }
            answer = await http.post("/runs", json={key: value for key, value in body.items() if value is not None})
            if answer.status_code != 200:
                return refused(answer.json()["error"]["message"])
            item = answer.json()["results"][0]
            return flow_result(item["status"], item.get("output"), item.get("errorCode"), item.get("errorMessage"), item.get("errorData"))

        assert await failures(cases, run) == []


async def test_every_case_by_stepflow_v1(deployed: Deployed) -> None:
    """Values of protobuf are doubles, and objects there have no order: what asks for more is left to REST and the SDK."""
    server, cases, _ = deployed
    async for call in calls(server.address):

        async def run(suite: Suite, case: Case, call: Callable[..., Awaitable[Any]] = call) -> dict[str, Any]:
            stored = await call(flows_pb2, "FlowsService", "StoreFlow", flows_pb2.StoreFlowRequest(flow=struct(suite.document.value)))
            request = runs_pb2.CreateRunRequest(flow_id=stored.flow_id, input=[value(case.input)], wait=True)
            if case.overrides is not None:
                request.overrides.CopyFrom(struct(case.overrides))
            for name, variable in (case.variables or {}).items():
                request.variables[name].CopyFrom(value(variable))
            try:
                [item] = (await call(runs_pb2, "RunsService", "CreateRun", request)).results
            except grpc.aio.AioRpcError as problem:
                return refused(problem.details() or "")
            output = json.loads(from_value(item.output)) if item.HasField("output") else None
            return flow_result(item.status, output, item.error_code, item.error_message, None)

        wanted = [(suite, case) for suite, case in cases if exact(suite, case) and case.name != "key order counts"]
        assert len(wanted) > len(cases) * 0.8
        assert await failures(wanted, run) == []


async def calls(address: str) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """The RPCs by name."""
    async with grpc.aio.insecure_channel(address) as channel:

        async def call(file: Any, service: str, name: str, request: Any) -> Any:
            method = file.DESCRIPTOR.services_by_name[service].methods_by_name[name]
            stub = channel.unary_unary(
                f"/stepflow.v1.{service}/{name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            return await stub(request, timeout=60)

        yield call


def value(plain: Any) -> Any:
    return to_value(json.dumps(plain).encode())


def struct(plain: Any) -> Any:
    return value(plain).struct_value


def refused(message: str) -> dict[str, Any]:
    """A submission that is refused for its input counts as the result that says so."""
    told = message.removeprefix("SM-5001 ")
    assert told.startswith("INVALID_INPUT: "), message
    return {"outcome": "failed", "error": {"code": "INVALID_INPUT", "message": told.removeprefix("INVALID_INPUT: ").partition(" (")[0]}}


def flow_result(status: int, output: Any, code: int | None, message: str | None, data: Any) -> dict[str, Any]:
    if status == common_pb2.EXECUTION_STATUS_COMPLETED:
        return {"outcome": "success", "result": output}
    assert status == common_pb2.EXECUTION_STATUS_FAILED, (status, message)
    name = common_pb2.TaskErrorCode.Name(code or 0).removeprefix("TASK_ERROR_CODE_")
    return {"outcome": "failed", "error": {"code": name, "message": message, **({} if data is None else {"data": data})}}


def exact(suite: Suite, case: Case) -> bool:
    """Whether every number fits a double."""

    def fits(plain: Any) -> bool:
        if isinstance(plain, dict):
            return all(map(fits, plain.values()))
        if isinstance(plain, list):
            return all(map(fits, plain))
        return not isinstance(plain, int) or abs(plain) <= EXACT

    return fits([suite.document.value, case.input, case.variables, case.expected])
