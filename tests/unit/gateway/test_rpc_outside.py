"""EventService: what HTTP says of events and promises, by gRPC: kept, once by their ids, given to the step whose token it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict
from tests.unit.gateway.door import Client, Door, details, opened
from tests.unit.gateway.test_http_outside import APPROVAL, OWN, WAIT, token
from tests.unit.gateway.web import Web, web

from stepmesh_gateway.settings import Limits
from stepmesh_gateway.translate.values import plain_value

LATER = "01900000-0000-7000-8000-00000000abcd"


@pytest.fixture
async def rest(door: Door) -> AsyncIterator[Web]:
    async with web(door) as one:
        yield one


async def send(client: Client, **fields: Any) -> dict[str, Any]:
    answer = await client("EventService/SendEvent", **{"name": "paid", **fields})
    return dict(MessageToDict(answer, always_print_fields_with_no_presence=True))


async def output(client: Client, run: str) -> Any:
    await client("RunsService/GetRun", run_id=run, wait=True)
    (item,) = (await client("RunsService/GetRunItems", run_id=run)).results
    return item.output


async def refused(call: Any, status: grpc.StatusCode, code: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is status
    assert details(caught.value)[0].reason == code


async def test_both_doors_tell_the_same_of_an_event(door: Door, rest: Web) -> None:
    early = await send(door.client, key="o1", data=b'{"n":1}', id="e1")
    assert early == {"id": "e1", "matched": 0, "buffered": True, "existing": False}
    again = await rest.http.post("/v1/events", json={"name": "paid", "key": "o1", "id": "e1"})
    assert again.json() == await send(door.client, key="o1", id="e1") == {**early, "buffered": False, "existing": True}
    run = (await door.client.submit(WAIT, {"key": "o1"})).summary.run_id
    named = await send(door.client, key="o1")
    assert named["id"]
    assert named["existing"] is False
    assert (await output(door.client, run)) == plain_value(None)


async def test_an_event_goes_to_a_run_by_its_id(client: Client) -> None:
    run = (await client.submit(OWN, None)).summary.run_id
    await send(client, run_id=run, data=b"[7]")
    assert await output(client, run) == plain_value([7])
    await refused(client("EventService/SendEvent", name="paid", run_id="mine"), grpc.StatusCode.INVALID_ARGUMENT, "SM-7002")


async def test_without_a_key_it_is_the_name_alone(client: Client) -> None:
    run = (await client.submit(WAIT, {"key": ""})).summary.run_id
    await send(client, data=b"1")
    assert await output(client, run) == plain_value(1)


@pytest.mark.parametrize(("rpc", "other", "approved"), [("ResolvePromise", "reject", True), ("RejectPromise", "resolve", False)])
async def test_a_decision_is_given_by_token_and_another_one_is_too_late(
    door: Door, rest: Web, rpc: str, other: str, approved: bool
) -> None:
    client = door.client
    run = (await client.submit(APPROVAL, None)).summary.run_id
    name = await token(door, run)
    for _ in range(2):
        await client(f"EventService/{rpc}", token=name)
    found = MessageToDict(await output(client, run))
    assert found["approved"] is approved
    assert (await rest.http.post(f"/v1/promises/{name}/{other}")).status_code == 409
    opposite = "RejectPromise" if approved else "ResolvePromise"
    await refused(client(f"EventService/{opposite}", token=name), grpc.StatusCode.FAILED_PRECONDITION, "SM-1060")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": ""}, "SM-5200"),
        ({"data": b"{"}, "SM-5200"),
        ({"id": "i" * 257}, "SM-5200"),
        ({"namespace": "a b"}, "SM-3004"),
    ],
)
async def test_what_cannot_be_is_refused(client: Client, fields: dict[str, Any], code: str) -> None:
    await refused(client("EventService/SendEvent", **{"name": "paid", **fields}), grpc.StatusCode.INVALID_ARGUMENT, code)


@pytest.mark.parametrize("rpc", ["EventService/SendEvent", "EventService/ResolvePromise"])
async def test_the_limit_of_payloads_holds(rpc: str) -> None:
    async with opened(Limits(payload_bytes=1_000), workers=0) as door:
        fields: dict[str, Any] = {"name": "paid"} if rpc.endswith("SendEvent") else {"token": "nonsense"}
        field = "data" if rpc.endswith("SendEvent") else "value"
        over, under = b'"' + b"x" * 999 + b'"', b'"' + b"x" * 998 + b'"'
        await refused(door.client(rpc, **fields, **{field: over}), grpc.StatusCode.RESOURCE_EXHAUSTED, "SM-7003")
        if rpc.endswith("SendEvent"):
            assert (await send(door.client, data=under))["buffered"]
        else:
            await refused(door.client(rpc, **fields, value=under), grpc.StatusCode.FAILED_PRECONDITION, "SM-1060")
