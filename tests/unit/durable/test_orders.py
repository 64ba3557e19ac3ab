"""Edits and sets in a thousand random orders of completion: what is changed before recorded work is caught wherever the run stands, and
what has no order is refused in all of them."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from tests.unit.durable.bodies import Body, Journal, step

from stepmesh.durable.execution import State
from stepmesh.durable.guards import Unordered, guarded
from stepmesh_broker.protocol.histories import Issued

guarded()
SEEDS = 1_000


def two_branches(first: str, second: str = "123") -> Body:
    async def branch(name: str, numbers: str) -> list[Any]:
        return [await step(f"{name}{number}") for number in numbers]

    async def body() -> Any:
        return await asyncio.gather(branch("a", first), branch("b", second))

    return body


@pytest.mark.parametrize(
    ("edited", "place"),
    [("1x23", "r.1/a2"), ("13", "r.1/a2"), ("132", "r.1/a2"), ("123", None), ("1234", None)],
    ids=["inserted", "removed", "swapped", "the same", "appended"],
)
def test_an_edit_is_caught_when_and_only_when_it_stands_before_recorded_work(edited: str, place: str | None) -> None:
    original, now = two_branches("123"), two_branches(edited)
    caught = 0
    for seed in range(SEEDS):
        journal = Journal(seed)
        for _ in range(Random(seed).randrange(5)):
            journal.append(journal.replay(original))
            journal.complete()
        journal.append(journal.replay(original))
        turn = journal.replay(now)
        is_recorded = place in {record.id for record in journal.records if isinstance(record, Issued)}
        assert (turn.state is State.DIVERGED) == is_recorded, (seed, turn.divergence)
        if turn.divergence is not None:
            caught += 1
            assert (turn.divergence.code, turn.divergence.id) == ("SM-1001", place)
        else:
            assert journal.run(now).state is State.DONE
    assert (100 < caught < SEEDS) if place else caught == 0


async def one(name: str) -> Any:
    return [await step(f"{name}1"), await step(f"{name}2")]


async def goes_through_a_set() -> Any:
    await asyncio.gather(one("a"), one("b"))
    done, _ = await asyncio.wait([asyncio.ensure_future(one("c")), asyncio.ensure_future(one("d"))])
    return [task.result() for task in done]


async def as_they_come() -> Any:
    await asyncio.gather(one("a"), one("b"))
    return [await each for each in asyncio.as_completed([asyncio.ensure_future(one("c")), asyncio.ensure_future(one("d"))])]


@pytest.mark.parametrize("body", [goes_through_a_set, as_they_come])
def test_what_has_no_order_is_refused_in_every_order(body: Body) -> None:
    for seed in range(SEEDS):
        turn = Journal(seed).run(body)
        assert (turn.state, type(turn.error)) == (State.FAILED, Unordered)
        assert "SM-1013" in str(turn.error)
