"""The mock plugin's components: matching, outcomes, and configurations that are refused."""

import msgspec
import pytest

from stepmesh import BadComponent, ComponentError, ErrorCode
from stepmesh_components import mock_worker
from stepmesh_components.mock import mock_component

HUGE = 123456789012345678901234567890


async def ask(behaviors: dict, input: str) -> object:
    component = mock_component("/say", {"behaviors": behaviors})
    assert component.read is not None
    answer = await component.invoke(component.read(input.encode()), None)  # type: ignore[arg-type]  # a mock looks at no context
    return msgspec.json.decode(answer)


@pytest.mark.parametrize("input", ['{"a":1,"b":[2,{"c":"é"}]}', '{ "b" : [ 2 , {"c":"\\u00e9"} ],\n "a": 1 }'])
async def test_spacing_key_order_and_escapes_do_not_matter(input: str) -> None:
    assert await ask({'{"b": [2, {"c": "é"}], "a": 1}': {"outcome": "success", "result": {"z": HUGE, "y": 1.0}}}, input) == {
        "z": HUGE,
        "y": 1.0,
    }


async def test_kinds_of_numbers_differ() -> None:
    behaviors = {"1": {"result": "int"}, "1.0": {"result": "float"}, "true": {"result": "bool"}, str(HUGE): {"result": "huge"}}
    assert [await ask(behaviors, text) for text in ("1", "1.0", "true", str(HUGE))] == ["int", "float", "bool", "huge"]


@pytest.mark.parametrize("code", list(ErrorCode))
async def test_error_codes_by_name(code: ErrorCode) -> None:
    with pytest.raises(ComponentError, match="kaput") as raised:
        await ask({"1": {"outcome": "failed", "error": {"code": code.name, "message": "kaput", "data": {"x": 1}}}}, "1")
    assert (raised.value.code, raised.value.data) == (code, {"x": 1})


async def test_short_error_is_a_component_failure() -> None:
    with pytest.raises(ComponentError, match="boom") as raised:
        await ask({"1": {"error": "boom"}}, "1")
    assert raised.value.code is ErrorCode.COMPONENT_FAILED


async def test_unknown_input_names_the_known_ones() -> None:
    with pytest.raises(ComponentError) as raised:
        await ask({'{"v": 1}': {"result": 1}, '"x"': {"result": 1}}, '{"v": 2}')
    assert raised.value.code is ErrorCode.COMPONENT_FAILED
    assert all(text in str(raised.value) for text in ('{"v":2}', '{"v":1}', '"x"', "/say"))


async def test_unknown_input_lists_ten_at_most() -> None:
    with pytest.raises(ComponentError, match=r"… \(11 in all\)"):
        await ask({str(n): {"result": n} for n in range(11)}, "99")
    with pytest.raises(ComponentError) as raised:
        await ask({str(n): {"result": n} for n in range(10)}, "99")
    assert "in all" not in str(raised.value)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"behaviours": {}}, "behaviours"),
        ({"behaviors": []}, "not an object"),
        ({"behaviors": {"{": {"result": 1}}}, "not JSON"),
        ({"behaviors": {"1": 5}}, "not an object"),
        ({"behaviors": {"1": {"outcome": "maybe"}}}, "maybe"),
        ({"behaviors": {"1": {"outcome": "success", "error": "x"}}}, "does not fit"),
        ({"behaviors": {"1": {"outcome": "failed", "result": 1}}}, "does not fit"),
        ({"behaviors": {"1": {"error": 5}}}, "neither text"),
        ({"behaviors": {"1": {"error": {"code": "NOPE"}}}}, "NOPE"),
        ({"behaviors": {"1": {"error": {"code": 99}}}}, "99"),
        ({"behaviors": {"1": {"resultt": 1}}}, "resultt"),
    ],
)
def test_bad_configuration_is_refused_when_the_worker_is_made(described: dict, said: str) -> None:
    with pytest.raises(BadComponent, match=r"mock component /say") as raised:
        mock_worker("mock", {"/say": described})
    assert said in str(raised.value)


def test_schemas_are_told() -> None:
    (component,) = mock_worker("m", {"/say": {"input_schema": {"type": "object"}, "output_schema": {}, "behaviors": {}}})
    assert (component.input_schema, component.output_schema) == (b'{"type":"object"}', None)


async def test_delay_outlasts_a_steps_timeout(run) -> None:  # type: ignore[no-untyped-def]  # the fixture's type is in conftest
    worker = mock_worker("mock", {"/slow": {"behaviors": {"null": {"result": 1, "delay_ms": 60_000}}}})
    flow = {
        "name": "slow",
        "steps": [
            {
                "id": "s",
                "component": "/mock/slow",
                "timeout": "20ms",
                "onError": {"action": "useDefault", "defaultValue": {"$error": "code"}, "backoff": {"type": "constant", "initial": "1ms"}},
            }
        ],
        "output": {"$step": "s"},
    }
    assert await run([worker], flow) == {"outcome": "success", "result": "TIMEOUT"}
