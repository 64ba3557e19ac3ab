"""AdminService and its routes: what a deployment is, its pools, and what nobody could take."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from tests.unit.gateway.door import Door
from tests.unit.gateway.test_rpc_outside import refused
from tests.unit.gateway.web import Web, error, web

from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.dead_letters import MOST, SHOWN_BYTES, Source
from stepmesh_broker.protocol.ids import Pool

NUMBERS = {"wanted", "queued", "leased", "capacity", "position", "size"}


@pytest.fixture
async def rest(door: Door) -> AsyncIterator[Web]:
    async with web(door) as one:
        yield one


@pytest.fixture
async def broker(door: Door) -> Broker:
    return await door.deployment.connect()


def told(message: Any) -> dict[str, Any]:
    """As JSON has it: 64-bit numbers are texts in that of protobuf."""
    found = MessageToDict(message, always_print_fields_with_no_presence=True)
    return {name: int(value) if name in NUMBERS else value for name, value in found.items()}


async def test_both_doors_tell_the_same_of_the_deployment(door: Door, rest: Web) -> None:
    found = told(await door.client("AdminService/GetDeployment"))
    assert (found["namespace"], found["partitions"]) == ("default", 1)
    found["limits"] = {name: int(value) for name, value in found["limits"].items()}
    assert found == (await rest.http.get("/v1/deployment")).json()


async def test_both_doors_tell_the_same_of_pools(door: Door, rest: Web) -> None:
    async def both() -> tuple[Any, Any]:
        pools = [told(one) for one in (await door.client("AdminService/ListPools")).pools]
        return pools, (await rest("GET", "/pools"))["pools"]

    by_rpc, by_rest = await both()
    assert by_rpc == by_rest
    idle = told(await door.client("AdminService/GetPool", pool="nobody"))
    assert idle == await rest("GET", "/pools/nobody")
    assert idle["wanted"] == 0
    await refused(door.client("AdminService/GetPool", pool="a.b"), grpc.StatusCode.INVALID_ARGUMENT, "SM-3004")


async def test_dead_letters_are_listed_and_dropped_by_either_door(door: Door, rest: Web, broker: Broker) -> None:
    await broker.park(Pool("events"), b"nonsense", "SM-5020 not an event")
    await broker.park(Pool("cpu"), b"\xff" * (SHOWN_BYTES + 1), "lost")
    first, second = (await door.client("AdminService/ListDeadLetters")).letters
    assert (first.pool, first.data, first.size, first.reason) == ("events", b"nonsense", 8, "SM-5020 not an event")
    assert (second.data, second.size) == (b"\xff" * SHOWN_BYTES, SHOWN_BYTES + 1)
    view, other = (await rest.http.get("/v1/dead-letters")).json()["letters"]
    assert (view["position"], view["pool"], view["reason"], view["size"]) == (first.position, "events", first.reason, 8)
    assert (view["data"], view["data_base64"]) == ("nonsense", None)
    assert other["data"] is None
    assert other["data_base64"].startswith("/////")
    assert [one.pool for one in (await door.client("AdminService/ListDeadLetters", pool="cpu")).letters] == ["cpu"]
    assert [one.pool for one in (await door.client("AdminService/ListDeadLetters", limit=1)).letters] == ["events"]

    await door.client("AdminService/DropDeadLetter", position=first.position)
    gone = door.client("AdminService/DropDeadLetter", position=first.position)
    await refused(gone, grpc.StatusCode.NOT_FOUND, "SM-5024")
    assert (await rest.http.delete(f"/v1/dead-letters/{second.position}")).status_code == 200
    error(await rest.http.delete(f"/v1/dead-letters/{second.position}"), 404, "SM-5024")
    assert not (await broker.parked())


async def test_a_record_is_sent_again_by_either_door(door: Door, rest: Web, broker: Broker) -> None:
    source = Source((0, 1, 2), 0, b"k", {"h": b"v"}).encoded()
    first, second, task = [
        await broker.park(*letter)
        for letter in (
            (Pool("events"), b"nonsense", "SM-5020", source),
            (Pool("submit"), b"{}", "SM-3050", source),
            (Pool("cpu"), b"", "lost"),
        )
    ]
    assert (await door.client("AdminService/ResendDeadLetter", position=first)).topic == "events"
    answer = await rest.http.post(f"/v1/dead-letters/{second}/resend")
    assert (answer.status_code, answer.json()) == (200, {"topic": "submit"})
    assert not {first, second} & {one.position for one in await broker.parked()}
    for position, status, code, found in (
        (first, grpc.StatusCode.NOT_FOUND, "SM-5024", 404),
        (task, grpc.StatusCode.FAILED_PRECONDITION, "SM-5140", 409),
    ):
        await refused(door.client("AdminService/ResendDeadLetter", position=position), status, code)
        error(await rest.http.post(f"/v1/dead-letters/{position}/resend"), found, code)


@pytest.mark.parametrize(("limit", "status"), [(0, 400), (1, 200), (MOST, 200), (MOST + 1, 400)])
async def test_a_list_has_a_limit(rest: Web, limit: int, status: int) -> None:
    assert (await rest.http.get(f"/v1/dead-letters?limit={limit}")).status_code == status


@pytest.mark.parametrize("position", ["x", "-1", "9" * 19, "9" * 5_000])
async def test_what_is_no_position_is_refused(rest: Web, position: str) -> None:
    error(await rest.http.delete(f"/v1/dead-letters/{position}"), 400, "SM-7103")
    error(await rest.http.post(f"/v1/dead-letters/{position}/resend"), 400, "SM-7103")
