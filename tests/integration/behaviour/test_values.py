"""What goes in and comes out: values, errors, parameters, sizes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration.behaviour.world import PAYLOAD_BYTES, POOL, World, step

from stepmesh_broker.protocol.api import GetItems, Items

pytestmark = pytest.mark.asyncio(loop_scope="module")
CODES = ["INVALID_INPUT", "COMPONENT_FAILED", "CANCELLED", "RESOURCE_UNAVAILABLE", "WORKER_ERROR", "TIMEOUT", "UNREACHABLE"]


async def text_of(shared: World, component: str, input: Any) -> str:
    """The output as JSON text, before anything decoded it."""
    handle = await shared.begin(component, [input])
    await shared.ended(handle)
    found = (await shared.client.requests.ask(GetItems(handle.id), Items)).results[0].result
    return found.decode()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        1.5,
        "",
        "päth ☃ \U0001f600",
        [],
        {},
        [[], {}],
        {"": 1},
        {"b": 1, "a": {"d": 1, "c": 2}},
        2**63,
        -(2**64),
        [2**53 + 1],
    ],
    ids=repr,
)
async def test_any_value_comes_back_as_it_was(shared: World, value: Any) -> None:
    assert json.dumps(await shared.run("/echo", value)) == json.dumps(value)


async def test_integers_keep_every_digit_and_keys_their_order(shared: World) -> None:
    assert '{"z":9223372036854775808,"a":-9007199254740993,"m":[1,18446744073709551615]}' in await text_of(shared, "/ints", None)


async def test_an_input_of_the_wrong_type_is_invalid_input(shared: World) -> None:
    assert await shared.run("/add", {"a": 2, "b": 40}) == 42
    for wrong in ({"a": 1}, {"a": 1, "b": "2"}, [1, 2], None):
        assert (await shared.failure("/add", wrong))["code"] == "INVALID_INPUT"


@pytest.mark.parametrize("code", CODES)
async def test_an_error_keeps_code_message_and_data(shared: World, code: str) -> None:
    data = {"z": [1, 2**60], "a": {"deep": None}}
    error = await shared.failure("/fail", {"code": code, "message": "so it is: ☃", "data": data})
    assert (error["code"], error["message"]) == (code, "so it is: ☃")
    assert json.dumps(error["data"]) == json.dumps(data)


async def test_an_error_without_data_has_none(shared: World) -> None:
    assert (await shared.failure("/fail", {"code": "INVALID_INPUT", "message": "no"})).get("data") is None


async def test_what_nobody_caught_is_a_failure_of_the_component_and_the_worker_lives_on(shared: World) -> None:
    error = await shared.failure("/raise", {"message": "out of luck"})
    assert error["code"] == "COMPONENT_FAILED"
    assert "out of luck" in error["message"]
    assert await shared.run("/echo", 1) == 1


async def test_a_component_that_is_not_there(shared: World) -> None:
    error = await shared.failure("/ehco", 1)
    assert error["code"] == "COMPONENT_NOT_FOUND"
    assert "/ehco" in error["message"]
    assert "/echo" in error["message"]


async def test_parameters_of_the_path(shared: World) -> None:
    assert await shared.run("/params/blue", None) == {"name": "blue"}
    assert await shared.run("/params/a.b-c~d", None) == {"name": "a.b-c~d"}


async def test_a_retry_comes_with_the_next_attempt_and_the_same_idempotency_key(shared: World) -> None:
    retry = {"action": "retry", "maxRetries": 3, "backoff": {"type": "constant", "initial": "10ms"}}
    assert await shared.run("/attempt", {"fail": 2}, onError=retry) == {"attempt": 3}
    first, second = [await shared.run("/idempotency", None) for _ in range(2)]
    assert first["key"] != second["key"]
    assert first["step_id"] == "s"
    assert first["run_id"] in first["key"]


async def test_a_worker_names_the_earliest_time_of_the_next_attempt(shared: World) -> None:
    retry = {"action": "retry", "maxRetries": 1, "backoff": {"type": "constant", "initial": "1ms"}}
    handle = await shared.begin("/fail", [{"code": "RESOURCE_UNAVAILABLE", "message": "later", "retry_after_ms": 700}], onError=retry)
    await shared.ended(handle)
    started = [event.at_ms async for event in handle.events(follow=False) if event.kind in ("step_retrying", "item_completed")]
    assert started[1] - started[0] >= 650


async def test_an_attempt_is_ended_at_its_time_limit(shared: World) -> None:
    flow = step("/sleep", timeout="300ms")
    handle = await shared.client.submit(
        {**flow, "steps": [{**flow["steps"][0], "onError": {"action": "useDefault", "defaultValue": {"$error": "code"}}}]}, [{"ms": 60_000}]
    )
    assert (await handle.result(30)) == "TIMEOUT"


async def test_a_large_value_goes_in_and_out_up_to_the_limit(shared: World) -> None:
    fits = "x" * (PAYLOAD_BYTES - 2)
    assert await shared.run("/size", fits) == {"bytes": PAYLOAD_BYTES}
    assert await shared.run("/echo", fits) == fits
    assert len(await shared.run("/big", {"bytes": PAYLOAD_BYTES})) == PAYLOAD_BYTES - 2


async def test_one_byte_above_the_limit_is_an_error_that_names_the_sizes(shared: World) -> None:
    error = await shared.failure("/big", {"bytes": PAYLOAD_BYTES + 1})
    assert error["code"] == "WORKER_ERROR"
    assert str(PAYLOAD_BYTES + 1) in error["message"]
    assert str(PAYLOAD_BYTES) in error["message"]
    assert await shared.run("/echo", 1) == 1


async def test_a_sub_run_belongs_to_the_run_that_started_it(shared: World) -> None:
    flow = await shared.client.store_flow(step("/echo"))
    handle = await shared.begin("/subrun", [{"flow_id": flow, "input": {"z": 1, "a": 2**60}}])
    assert await handle.result(30) == {"z": 1, "a": 2**60}
    (child,) = await shared.client.list_runs(parent=handle.id)
    assert (child.root, child.status, child.parent_step) == (handle.id, "completed", "s")


async def test_more_sub_runs_than_slots_do_not_block_each_other(shared: World) -> None:
    flow = await shared.client.store_flow(step("/echo"))
    handle = await shared.begin("/subrun", [{"flow_id": flow, "input": n} for n in range(20)])
    assert (await shared.ended(handle)).completed == 20


async def test_the_components_of_a_worker_are_listed_with_their_pool(shared: World) -> None:
    listed = {entry.path for entry in await shared.client.components()}
    assert {f"/{POOL}/echo", f"/{POOL}/params/{{name}}", f"/{POOL}/subrun"} <= listed
