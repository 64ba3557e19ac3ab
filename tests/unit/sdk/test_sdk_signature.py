"""Registration: which parameter takes what, default paths, schemas, refusals."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import pydantic
import pytest

from stepmesh import BadComponent, ComponentError, Components, Context, ErrorCode, Worker
from stepmesh.compat import StepflowContext
from stepmesh.component import build
from stepmesh.testing import call


@dataclass
class Point:
    x: int
    y: int = 0


class Model(pydantic.BaseModel):
    x: int


async def nothing():
    return "nothing"


async def whole(input):
    return input


async def typed(point: Point) -> Point:
    return Point(point.y, point.x)


async def model(input: Model) -> Model:
    return Model(x=input.x + 1)


async def with_context(input, context):
    return [input, context.step_id]


async def context_first(context: Context, input: int):
    return [input, context.step_id]


async def context_only(context: StepflowContext):
    return context.step_id


async def context_by_name(context):
    return context.step_id


async def any_name(input: int, ctx: Context):
    return ctx.step_id


async def add(a: int, b: int = 2):
    return a + b


async def add_with_context(a: int, b: int, context: Context):
    return [a + b, context.step_id]


async def keyword_only(*, name: str):
    return f"hello {name}"


async def keyword_context(input: int, *, context: Context):
    return [input, context.step_id]


async def mixed(model: Model, times: int = 1):
    return model.x * times


async def list_default(a: int, items: list[int] = []):  # noqa: B006
    items.append(a)
    return items


def sync(input: int):
    return input + 1


class Times:
    async def __call__(self, input: int):
        return input * 10


CALLS: list[tuple[Any, Any, Any]] = [
    (nothing, {"ignored": 1}, "nothing"),
    (whole, [1, 2], [1, 2]),
    (typed, {"x": 1, "y": 5}, {"x": 5, "y": 1}),
    (model, {"x": 1}, {"x": 2}),
    (with_context, 1, [1, "step"]),
    (context_first, 1, [1, "step"]),
    (context_only, None, "step"),
    (context_by_name, None, "step"),
    (any_name, 1, "step"),
    (add, {"a": 1, "b": 5}, 6),
    (add, {"a": 1}, 3),
    (add_with_context, {"a": 1, "b": 2}, [3, "step"]),
    (keyword_only, {"name": "you"}, "hello you"),
    (keyword_context, 3, [3, "step"]),
    (mixed, {"model": {"x": 4}, "times": 2}, 8),
    (mixed, {"model": {"x": 4}}, 4),
    (list_default, {"a": 1}, [1]),
    (list_default, {"a": 2}, [2]),
    (sync, 1, 2),
]


@pytest.mark.parametrize(("function", "input", "output"), CALLS, ids=[f"{row[0].__name__}-{row[1]}" for row in CALLS])
async def test_calls(function, input, output):
    assert await call(function, input) == output


INVALID: list[tuple[Any, Any, str]] = [
    (typed, {"x": "one"}, "$.x"),
    (model, {"x": "one"}, "$.x"),
    (add, {"a": "one"}, "$.a"),
    (add, {}, "$"),
    (add, 5, "$"),
    (mixed, {"model": {"x": []}}, "$.model.x"),
    (sync, "one", "$"),
]


@pytest.mark.parametrize(("function", "input", "path"), INVALID, ids=[f"{row[0].__name__}-{row[1]}" for row in INVALID])
async def test_input_that_does_not_fit_is_invalid_input_with_its_path(function, input, path):
    with pytest.raises(ComponentError) as caught:
        await call(function, input)
    assert caught.value.code == ErrorCode.INVALID_INPUT
    assert caught.value.data["path"] == path


async def test_a_value_error_of_user_code_is_not_invalid_input():
    async def parse(input: str):
        return int(input)

    with pytest.raises(ComponentError) as caught:
        await call(parse, "x")
    assert caught.value.code == ErrorCode.COMPONENT_FAILED
    assert caught.value.data["type"] == "ValueError"


async def test_call_takes_attempt_and_time_limit():
    async def attempt(context):
        return context.attempt

    async def endless():
        import asyncio

        await asyncio.sleep(100)

    assert await call(attempt, attempt=3) == 3
    with pytest.raises(ComponentError) as caught:
        await call(endless, timeout_s=0.05)
    assert caught.value.code == ErrorCode.TIMEOUT


def test_defaults_of_path_name_and_description():
    def parse_file(input: str) -> int:
        """Parse a file."""
        return 1

    component = build(parse_file)
    assert (component.path, component.name, component.description, component.timeout_s) == (
        "/parse_file",
        "parse_file",
        "Parse a file.",
        None,
    )
    info = component.info()
    assert msgspec.json.decode(info.input_schema) == {"type": "string"}
    assert msgspec.json.decode(info.output_schema) == {"type": "integer"}


def test_given_path_name_description_and_timeout():
    worker = Worker("cpu")

    @worker.component(path="/text/parse.v2", name="parser", description="Parses.", timeout=timedelta(minutes=1))
    async def f(input):
        return input

    (component,) = worker
    assert (component.path, component.name, component.description, component.timeout_s) == ("/text/parse.v2", "parser", "Parses.", 60.0)
    assert worker.get("/text/parse.v2") is component
    assert f.__name__ == "f", "the function itself is returned"


def test_keyword_fields_have_an_object_schema():
    schema = msgspec.json.decode(build(add).input_schema)
    (definition,) = schema["$defs"].values()
    assert definition["required"] == ["a"]
    assert definition["properties"] == {"a": {"type": "integer"}, "b": {"type": "integer", "default": 2}}


async def test_callable_objects_and_partials_with_a_name():
    assert build(Times(), path="/times").is_async
    assert build(functools.partial(add, b=3), path="/add3").path == "/add3"


def test_components_can_be_included():
    shared = Components()
    shared.component(nothing)
    worker = Worker("cpu")
    worker.include(shared)
    assert [component.path for component in worker] == ["/nothing"]
    assert len(worker) == 1
    with pytest.raises(BadComponent, match="registered twice"):
        worker.include(shared)


def generator():
    yield 1


async def async_generator():
    yield 1


def starred(*args):
    return args


def double_starred(**kwargs):
    return kwargs


def unknown_type(input: NoSuchType):  # type: ignore[name-defined]  # noqa: F821
    return input


def positional_fields(a: int, b: int, /):
    return a + b


class Opaque:
    pass


def opaque(input: Opaque):
    return input


def opaque_output(input: int) -> list[Opaque]:
    return [Opaque()]


async def test_an_output_type_without_schema_is_allowed_and_checked_when_it_is_written():
    assert msgspec.json.decode(build(opaque_output).output_schema) == {"type": "array", "items": {"description": "any JSON value (Opaque)"}}
    with pytest.raises(ComponentError) as caught:
        await call(opaque_output, 1)
    assert caught.value.code == ErrorCode.WORKER_ERROR
    assert caught.value.data == {"path": "$[0]", "type": "Opaque"}


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (generator, "generator"),
        (async_generator, "generator"),
        (starred, "args"),
        (double_starred, "kwargs"),
        (unknown_type, "NoSuchType"),
        (positional_fields, "positional-only"),
        (opaque, "Opaque"),
    ],
)
def test_functions_that_cannot_be_components_say_why(function, says):
    with pytest.raises(BadComponent) as caught:
        build(function)
    assert says in str(caught.value)
    assert caught.value.code == "SM-6101"


@pytest.mark.parametrize("path", ["", "parse", "/", "/a//b", "/a b", "/{x", "/{*rest}/x", "/{a b}", "/ä"])
def test_paths_that_do_not_work(path):
    with pytest.raises(BadComponent):
        build(nothing, path=path)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), timedelta(0)])
def test_timeouts_that_do_not_work(timeout):
    with pytest.raises(BadComponent):
        build(nothing, timeout=timeout)


@pytest.mark.parametrize(
    ("path", "says"),
    [("/nothin", "did you mean /nothing?"), ("/qqqq", "this worker offers /nothing"), ("nothing", "did you mean /nothing?")],
)
def test_unknown_paths_name_the_nearest(path, says):
    components = Components()
    components.component(nothing)
    assert says in components.unknown(path)
    assert "offers none" in Components().unknown(path)
