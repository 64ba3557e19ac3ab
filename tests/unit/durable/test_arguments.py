"""A step gets what the history has: its arguments as they were when it was asked for, in every attempt, and with their types."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import msgspec
import numpy
import pydantic
import pytest

from stepmesh import App, Retry, wf
from stepmesh.durable.arguments import kept
from stepmesh.durable.testing import Run, env
from stepmesh_broker.protocol.histories import Issued, Kind

app = App("arguments")
seen: list[Any] = []


class Colour(Enum):
    RED = "red"


class Order(msgspec.Struct):
    id: str
    tags: list[str]


class Fixed(msgspec.Struct, frozen=True):
    tags: list[str]


@dataclass
class Parcel:
    weights: list[int]


class Model(pydantic.BaseModel):
    tags: list[str]


def plain(value: Any) -> Any:
    """As the journal has it, and a copy."""
    return msgspec.json.decode(msgspec.json.encode(value))


@app.step
async def note(given: Any) -> Any:
    seen.append(plain(given))
    return seen[-1]


@app.step(retry=Retry(max=3, backoff="1s..2s"))
def clumsy(rows: list[int], *, more: dict[str, int]) -> int:
    seen.append([*rows, more["n"]])
    rows.append(more.pop("n"))
    if len(seen) < 3:
        raise OSError("not yet")
    return len(rows)


@app.workflow
async def changes() -> list[Any]:
    xs, order = [1], Order("o1", ["new"])
    tasks = [
        asyncio.ensure_future(note(xs)),
        asyncio.ensure_future(note(order)),
        asyncio.ensure_future(wf.run("run", note.fn, {"xs": (xs,)})),
    ]
    await asyncio.sleep(0)  # they are asked for
    xs.append(2)
    order.tags.clear()
    return [await task for task in tasks]


@app.workflow
async def retried() -> list[Any]:
    rows, more = [1], {"n": 5}
    return [await clumsy(rows, more=more), rows, more]


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


def recorded(run: Run) -> list[Any]:
    steps = [one for one in run.records if isinstance(one, Issued) and one.kind is Kind.STEP]
    return [msgspec.json.decode(one.arguments) for one in steps]


@pytest.mark.asyncio
@pytest.mark.parametrize("always_replay", [True, False])
async def test_a_step_gets_what_the_history_has(always_replay: bool) -> None:
    async with env(app, always_replay=always_replay) as t:
        run = await t.start(changes)
        assert await run.result() == [[1], {"id": "o1", "tags": ["new"]}, {"xs": [[1]]}]
        assert sorted(map(str, seen)) == sorted(str(arguments["given"]) for arguments in recorded(run))
        t.crash_at_every_record(run)


@pytest.mark.asyncio
@pytest.mark.parametrize("always_replay", [True, False])
async def test_every_attempt_gets_the_same_and_the_body_keeps_its_own(always_replay: bool) -> None:
    async with env(app, always_replay=always_replay) as t:
        run = await t.start(retried)
        assert await run.result() == [2, [1], {"n": 5}]
    assert seen == [[1, 5]] * 3


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([1, [2]], lambda value: value[1].append(3)),
        ({"a": {"b": 1}}, lambda value: value["a"].clear()),
        ({1}, lambda value: value.add(2)),
        (([1],), lambda value: value[0].append(2)),
        (bytearray(b"a"), lambda value: value.extend(b"b")),
        (Order("o", ["x"]), lambda value: setattr(value, "id", "p")),
        (Fixed(["x"]), lambda value: value.tags.append("y")),
        (Parcel([1]), lambda value: value.weights.append(2)),
        (Model(tags=["x"]), lambda value: value.tags.append("y")),
    ],
)
def test_what_can_change_is_kept_with_its_type(value: Any, change: Callable[[Any], None]) -> None:
    take = kept((value,), {"by_name": value})
    as_it_was = repr(value)
    change(value)
    for _ in range(2):
        (found,), named = take()
        assert repr(found) == as_it_was == repr(named["by_name"])
        assert type(found) is type(value)
        change(found)


def test_numbers_of_numpy_are_kept() -> None:
    value = numpy.array([1, 2])
    take = kept((value,), {})
    value[0] = 5
    assert take()[0][0].tolist() == [1, 2]


def test_types_of_a_function_are_kept_too() -> None:
    class Local(msgspec.Struct):
        tags: list[str]

    value = Local(["x"])
    take = kept((value,), {})
    value.tags.append("y")
    for _ in range(2):
        ((found,), _) = take()
        assert found == Local(["x"])
        found.tags.clear()


@pytest.mark.parametrize("value", [1, "a", None, Colour.RED, datetime(2026, 1, 1, tzinfo=UTC), (1, ("a", frozenset({2})))])
def test_what_cannot_change_is_handed_on_as_it_is(value: Any) -> None:
    assert kept((value,), {"a": value})() == ((value,), {"a": value})
    assert kept((value,), {})()[0][0] is value


def test_what_nothing_copies_is_handed_on_as_it_is() -> None:
    value = memoryview(b"ab")
    assert kept((value,), {})()[0][0] is value
