"""stepflow.v1 FlowsService, BlobService, ComponentsService, health and reflection over a real connection."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct, Value
from tests.unit.gateway.door import METHODS, Client, Door, Workshop, details, one_step, opened

from stepmesh_broker.protocol.ids import content_id
from stepmesh_gateway.translate.values import plain_value, to_struct

WARNING, ERROR, FATAL = 3, 2, 1
NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT


async def refused(call: Any, status: grpc.StatusCode, code: str) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert (caught.value.code(), details(caught.value)[0].reason) == (status, code), caught.value.details()
    return str(caught.value.details())


# --- flows ---


async def test_the_id_of_a_flow_is_that_of_its_sorted_text(client: Client) -> None:
    flow = one_step(metadata={"b": 1, "a": 2.5, "whole": 3.0})
    stored = await client.store(flow)
    text = msgspec.json.encode({**flow, "metadata": {"b": 1, "a": 2.5, "whole": 3}}, order="deterministic")
    assert (stored.stored, stored.flow_id) == (True, content_id(text))
    turned = to_struct(msgspec.json.encode(dict(reversed(flow.items()))))
    assert (await client("FlowsService/StoreFlow", flow=turned)).flow_id == stored.flow_id


async def test_a_dry_run_stores_nothing(client: Client) -> None:
    checked = await client.store(one_step(), dry_run=True)
    assert (checked.stored, len(checked.flow_id)) == (False, 64)
    await refused(client("FlowsService/GetFlow", flow_id=checked.flow_id), NOT_FOUND, "SM-5004")
    assert (await client.store(one_step())).flow_id == checked.flow_id


async def test_findings_have_numbers_levels_and_places(client: Client) -> None:
    flow = {"steps": [{"id": "a", "component": "/x", "input": {"$step": "a"}, "inptu": 1}, {"id": "b", "component": 5}]}
    answer = await client.store(flow)
    assert (answer.stored, answer.flow_id) == (False, "")
    found = answer.diagnostics
    told = {(one.kind, one.code, one.level, one.path) for one in found.diagnostics}
    assert told >= {
        ("missingFlowName", 2015, WARNING, "$.name"),
        ("missingFlowDescription", 2015, WARNING, "$.description"),
        ("selfReference", 2022, FATAL, "$.steps[0].input.$step"),
        ("typeMismatch", 2010, ERROR, "$.steps[1].component"),
        ("unknownField", 2011, WARNING, "$.steps[0].inptu"),
    }
    counts = [sum(one.level == level for one in found.diagnostics) for level in (FATAL, ERROR, WARNING)]
    assert [found.num_fatal, found.num_error, found.num_warning] == counts
    assert all(one.formatted.startswith(f"SM-{one.code} ") and not one.experimental for one in found.diagnostics)
    misspelled = next(one for one in found.diagnostics if one.code == 2011)
    assert "did you mean" in misspelled.formatted


async def test_a_flow_that_is_missing_or_holds_no_json(client: Client) -> None:
    await refused(client("FlowsService/StoreFlow"), INVALID, "SM-7002")
    struct = Struct()
    struct.fields["output"].number_value = float("nan")
    assert "at flow.output is nan" in await refused(client("FlowsService/StoreFlow", flow=struct), INVALID, "SM-7001")


async def test_a_flow_with_its_examples_and_test_cases(client: Client) -> None:
    flow = one_step(
        examples=[{"name": "small", "description": "one", "input": 1}, {"name": "none", "input": None}],
        test={"cases": [{"name": "case", "input": {"x": [1]}, "output": {"outcome": "success", "result": 2}}]},
    )
    stored = await client.store(flow)
    found = await client("FlowsService/GetFlow", flow_id=stored.flow_id)
    assert found.flow_id == stored.flow_id
    assert MessageToDict(found.flow) == flow
    assert [(one.name, one.HasField("description"), MessageToDict(one.input)) for one in found.all_examples] == [
        ("small", True, 1), ("none", False, None), ("case", False, {"x": [1]}),
    ]  # fmt: skip


async def test_variables_of_a_flow(client: Client) -> None:
    properties = {
        "must": {"type": "integer", "description": "how many"},
        "may": {"type": "string", "default": "x", "env_var": "MAY"},
        "secret": {"type": "string", "default": "hidden", "is_secret": True},
    }
    variables = {"type": "object", "properties": properties, "required": ["must"]}
    stored = await client.store(one_step(schemas={"type": "object", "properties": {"variables": variables}}))
    found = await client("FlowsService/GetFlowVariables", flow_id=stored.flow_id)
    assert (found.flow_id, set(found.variables)) == (stored.flow_id, set(properties))
    must, may, secret = (found.variables[name] for name in properties)
    assert (must.required, must.description, must.HasField("default_value"), must.HasField("env_var")) == (True, "how many", False, False)
    assert (may.required, may.default_value.string_value, may.env_var) == (False, "x", "MAY")
    assert may.schema.fields["type"].string_value == "string"
    assert not secret.HasField("default_value")
    assert "hidden" not in str(secret)


async def test_a_deleted_flow_is_gone(client: Client, workshop: Workshop) -> None:
    flow = one_step("/py/gate")
    run = (await client.submit(flow, "x")).summary
    await refused(client("FlowsService/DeleteFlow", flow_id=run.flow_id), grpc.StatusCode.FAILED_PRECONDITION, "SM-5013")
    workshop.let("x")
    await client("RunsService/GetRun", run_id=run.run_id, wait=True)
    await client("FlowsService/DeleteFlow", flow_id=run.flow_id)
    for name in ("GetFlow", "DeleteFlow", "GetFlowVariables"):
        await refused(client(f"FlowsService/{name}", flow_id=run.flow_id), NOT_FOUND, "SM-5004")
    await refused(client("RunsService/CreateRun", flow_id=run.flow_id, input=[Value()]), NOT_FOUND, "SM-5004")


@pytest.mark.parametrize("name", ["GetFlow", "DeleteFlow", "GetFlowVariables"])
async def test_ids_that_are_none(client: Client, name: str) -> None:
    await refused(client(f"FlowsService/{name}", flow_id="0" * 64), NOT_FOUND, "SM-5004")
    await refused(client(f"FlowsService/{name}", flow_id="../etc"), INVALID, "SM-7002")


# --- blobs ---


async def test_values_as_blobs(client: Client) -> None:
    value = {"b": [1, 2.5], "a": None}
    put = await client("BlobService/PutBlob", json_data=plain_value(value), filename="v.json", content_type="application/json")
    assert put.blob_id == content_id(b'{"a":null,"b":[1,2.5]}')
    assert put.filename == "v.json"
    got = await client("BlobService/GetBlob", blob_id=put.blob_id.upper())
    assert (got.blob_id, got.blob_type, got.filename, got.content_type) == (put.blob_id, "data", "v.json", "application/json")
    assert MessageToDict(got.json_data) == value


async def test_bytes_as_blobs(client: Client) -> None:
    data = bytes(range(256))
    for kind in ("binary", "data", ""):  # stepflow-py says `data` of bytes as well
        put = await client("BlobService/PutBlob", raw_data=data, blob_type=kind)
        assert (put.blob_id, put.HasField("filename")) == (content_id(data), False)
        got = await client("BlobService/GetBlob", blob_id=put.blob_id)
        assert (got.WhichOneof("content"), got.raw_data, got.blob_type) == ("raw_data", data, "binary")


async def test_a_flow_as_a_blob_keeps_its_own_text(client: Client) -> None:
    text = b'{"steps":[],"name":"f","output":{"$input":"$"}}'
    put = await client("BlobService/PutBlob", raw_data=text, blob_type="flow")
    assert put.blob_id == content_id(text)
    done = await client("RunsService/CreateRun", flow_id=put.blob_id, input=[plain_value(5)], wait=True)
    assert MessageToDict(done.results[0].output) == 5
    assert (await client("FlowsService/GetFlow", flow_id=put.blob_id)).flow.fields["name"].string_value == "f"


async def test_blobs_that_cannot_be(client: Client) -> None:
    await refused(client("BlobService/PutBlob"), INVALID, "SM-7002")
    await refused(client("BlobService/PutBlob", json_data=Value(), blob_type="binary"), INVALID, "SM-7002")
    await refused(client("BlobService/PutBlob", json_data=Value(), blob_type="picture"), INVALID, "SM-5009")
    await refused(client("BlobService/PutBlob", raw_data=b"{", blob_type="flow"), INVALID, "SM-5009")
    await refused(client("BlobService/PutBlob", json_data=Value(number_value=float("inf"))), INVALID, "SM-7001")
    await refused(client("BlobService/GetBlob", blob_id="0" * 64), NOT_FOUND, "SM-5005")
    await refused(client("BlobService/GetBlob", blob_id="x"), INVALID, "SM-7002")


async def test_a_binary_blob_is_no_flow(client: Client) -> None:
    put = await client("BlobService/PutBlob", raw_data=b"\xff")
    await refused(client("FlowsService/GetFlow", flow_id=put.blob_id), NOT_FOUND, "SM-5004")


# --- components ---


async def test_components_with_and_without_schemas(client: Client) -> None:
    listed = await client("ComponentsService/ListRegisteredComponents")
    double = next(one for one in listed.components if one.path == "/py/double")
    assert (double.component_id, double.plugin) == ("/double", "py")
    assert double.input_schema.fields["type"].string_value == "integer"
    assert next(one for one in listed.components if one.path == "/builtin/eval").plugin == "builtin"
    assert listed.complete
    bare = await client("ComponentsService/ListRegisteredComponents", exclude_schemas=True)
    assert [one.path for one in bare.components] == [one.path for one in listed.components]
    assert not any(one.HasField("input_schema") or one.HasField("output_schema") for one in bare.components)


async def test_a_pool_without_a_worker_is_told_and_waited_for_by_nobody() -> None:
    async with opened(workers=0) as door:
        run = await door.client.submit(one_step("/py/double"), 1)
        assert run.summary.status == 1
        async with asyncio.timeout(5):
            listed = await door.client("ComponentsService/ListRegisteredComponents")
        assert not listed.complete
        assert [one.plugin for one in listed.failed_plugins] == ["py"]
        assert "no worker of pool py" in listed.failed_plugins[0].error
        assert any(one.path == "/builtin/eval" for one in listed.components)


# --- health and reflection ---


async def test_health_of_gateway_and_orchestrator(client: Client) -> None:
    found = await client("HealthService/HealthCheck")
    assert found.status == "healthy"
    assert found.timestamp.seconds > 1_600_000_000
    assert found.build.git_version
    assert found.build.target


async def test_a_gateway_without_an_orchestrator_is_unhealthy() -> None:
    async with opened() as door:
        await door.deployment.node.stop()
        assert (await door.client("HealthService/HealthCheck")).status == "unhealthy"
        assert (await door.client("health.v1.Health/Check")).status == 1


async def test_standard_health(door: Door) -> None:
    client = door.client
    assert (await client("health.v1.Health/Check")).status == 1
    assert (await client("health.v1.Health/Check", service="stepflow.v1.RunsService")).status == 1
    await refused(client("health.v1.Health/Check", service="nobody"), NOT_FOUND, "SM-7006")
    assert (await client("health.v1.Health/List")).statuses["stepflow.v1.TasksService"].status == 1
    known = client.stream("health.v1.Health/Watch", service="stepflow.v1.RunsService")
    unknown = client.stream("health.v1.Health/Watch", service="nobody")
    assert ((await known.read()).status, (await unknown.read()).status) == (1, 3)


async def test_whoever_watches_hears_that_the_gateway_stops() -> None:
    async with opened() as door:
        watch = door.client.stream("health.v1.Health/Watch")
        assert (await watch.read()).status == 1
        stopping = asyncio.create_task(door.gateway.stop())
        assert (await watch.read()).status == 2
        assert await watch.read() is grpc.aio.EOF
        await stopping


async def ask(client: Client, *questions: dict[str, Any]) -> list[Any]:
    kind, call, _ = client.open("v1alpha.ServerReflection/ServerReflectionInfo")
    return [answer async for answer in call(iter([kind(**question) for question in questions]))]


async def test_reflection_tells_of_every_service_and_its_messages(client: Client) -> None:
    (listed,) = await ask(client, {"list_services": ""})
    names = [one.name for one in listed.list_services_response.service]
    assert set(names) == {method.containing_service.full_name for method in METHODS.values()}
    for name, answer in zip(names, await ask(client, *[{"file_containing_symbol": name} for name in names]), strict=True):
        files = [FileDescriptorProto.FromString(one) for one in answer.file_descriptor_response.file_descriptor_proto]
        assert any(f"{file.package}.{service.name}" == name for file in files for service in file.service)


async def test_an_rpc_that_does_not_exist(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.channel.unary_unary("/stepflow.v1.RunsService/Nothing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
