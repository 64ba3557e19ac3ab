# ruff: noqa: DTZ001, DTZ005, DTZ011, ASYNC230, ASYNC251, SIM115
"""What is seen in the source of a body, with its line; what is fine is left alone."""

from __future__ import annotations

import asyncio
import datetime
import os
import random
import time
import uuid
from collections.abc import Callable
from datetime import datetime as clock
from time import time as seconds
from typing import Any

import pytest

from stepmesh.durable import wf
from stepmesh.durable.lint import lint
from stepmesh.durable.steps import Step


async def step(_: Any = None) -> Any: ...


async def asks_clocks() -> None:
    clock.now()
    datetime.datetime.now(datetime.UTC)
    datetime.date.today()
    time.time()
    seconds()
    time.sleep(1)


async def asks_chance() -> None:
    random.random()
    random.choice([1, 2])
    uuid.uuid4()
    os.urandom(4)


async def looks_around() -> None:
    open("file")
    os.getenv("HOME")
    os.environ["HOME"]


async def waits_without_order() -> None:
    await asyncio.wait([])
    for _ in asyncio.as_completed([]):
        pass
    await asyncio.to_thread(print)
    for name in {"a", "b"}:
        await step(name)
    [await step(name) for name in set("ab")]


async def swallows() -> None:
    try:
        await step()
    except:  # noqa: E722
        pass
    try:
        await step()
    except BaseException:
        await step()
    try:
        await step()
    finally:
        await step()


async def is_fine(now: Callable[[], int]) -> None:
    now()
    datetime.datetime(2026, 1, 1)
    try:
        await step()
    except BaseException:
        await step()
        raise
    try:
        await step()
    except Exception:
        pass
    finally:
        print("over")
    for name in sorted({"b", "a"}):
        await step(name)
    [value async for value in several()]


async def makes_steps(step: Any) -> None:
    def reads() -> str:
        return open("file").read()

    async def counts() -> float:
        return time.time()

    await wf.run("now", lambda: time.time())
    wf.side_effect("chance", lambda: random.random())
    await wf.run("reads", reads)
    await step.run("counts", counts)


async def has_functions_of_its_own() -> None:
    async def counts() -> float:
        return time.time()

    await wf.map(counts, [])
    await wf.run("fine", lambda: 1, time.time())
    sorted([], key=lambda _: time.time())


def helper() -> float:
    return deeper(3)


def deeper(n: int) -> float:
    return deeper(n - 1) if n else time.time()


async def calls_helpers() -> None:
    random.random()
    helper()


async def forgets() -> None:
    remembered()
    wf.sleep("1d")
    wf.wait_for_event("paid")
    several_steps()
    await remembered()
    wf.detach(remembered())
    later = remembered()
    await later


@Step
def remembered() -> None: ...


async def several_steps() -> None: ...


async def several() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (asks_clocks, ["SM-1010"] * 6),
        (asks_chance, ["SM-1010"] * 4),
        (looks_around, ["SM-1011"] * 3),
        (waits_without_order, ["SM-1013", "SM-1013", "SM-1012", "SM-1013", "SM-1013"]),
        (swallows, ["SM-1015"] * 3),
        (is_fine, []),
        (makes_steps, []),
        (calls_helpers, ["SM-1010"] * 2),
        (forgets, ["SM-1021"] * 4),
        (has_functions_of_its_own, ["SM-1010"] * 3),
    ],
)
def test_what_is_found(body: Callable[..., Any], expected: list[str]) -> None:
    assert [finding.code for finding in lint(body)] == expected


def test_a_finding_names_file_line_cause_and_fix() -> None:
    first = lint(asks_clocks)[0]
    line = asks_clocks.__code__.co_firstlineno + 1
    assert str(first) == f"test_lint.py:{line} SM-1010 `clock.now()` changes on replay: use wf.now()"


def test_names_of_the_enclosing_function_are_known() -> None:
    ticking = time.time

    async def body() -> Any:
        return ticking()

    assert [finding.code for finding in lint(body)] == ["SM-1010"]


def test_what_has_no_source_is_not_judged() -> None:
    assert lint(print) == []
    assert lint(eval("lambda: 1")) == []
