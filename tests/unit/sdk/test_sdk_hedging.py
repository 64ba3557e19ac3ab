"""A question that is asked again: the first answer counts, failures count only when nothing else is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import virtual

from stepmesh.hedging import AGAIN_S, first_answer
from stepmesh_broker.errors import BrokerUnavailable

Step = Callable[[], Coroutine[Any, Any, bytes]]


def after(seconds: float, answer: bytes | None) -> Step:
    """An answer, or (None) a failure, that comes after that time."""

    async def ask() -> bytes:
        await asyncio.sleep(seconds)
        if answer is None:
            raise BrokerUnavailable(f"after {seconds}")
        return answer

    return ask


class Asked:
    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.count = 0
        self.cancelled = 0

    async def __call__(self) -> bytes:
        step = self.steps[self.count]
        self.count += 1
        try:
            return await step()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@virtual
async def test_what_is_answered_soon_is_asked_once() -> None:
    asked = Asked(after(AGAIN_S[0] - 0.01, b"soon"))
    assert await first_answer(asked) == b"soon"
    assert asked.count == 1


@virtual
async def test_silence_is_not_waited_out() -> None:
    asked = Asked(after(30, b"late"), after(0.1, b"another one"))
    assert await first_answer(asked) == b"another one"
    assert (asked.count, asked.cancelled) == (2, 1)
    assert asyncio.get_running_loop().time() == pytest.approx(AGAIN_S[0] + 0.1)


@virtual
async def test_the_first_one_may_still_answer() -> None:
    asked = Asked(after(AGAIN_S[0] + 0.5, b"first"), after(30, b"second"))
    assert await first_answer(asked) == b"first"
    assert (asked.count, asked.cancelled) == (2, 1)


@virtual
async def test_it_is_asked_three_times_at_most() -> None:
    asked = Asked(*[after(20, b"slow")] * 3)
    assert await first_answer(asked) == b"slow"
    assert (asked.count, asked.cancelled) == (3, 2)


@virtual
async def test_a_failure_at_once_is_told_at_once() -> None:
    asked = Asked(after(0, None))
    with pytest.raises(BrokerUnavailable, match="after 0"):
        await first_answer(asked)
    assert asked.count == 1


@virtual
async def test_a_failure_does_not_end_the_others() -> None:
    asked = Asked(after(AGAIN_S[0] + 0.2, None), after(1, b"well"))
    assert await first_answer(asked) == b"well"


@virtual
async def test_who_gives_up_leaves_nothing_behind() -> None:
    asked = Asked(after(30, b"a"), after(30, b"b"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(first_answer(asked), AGAIN_S[0] + 0.1)
    assert asked.cancelled == 2
