"""How messages are exchanged when a broker's own rate is measured: as many as were asked for, in a window, and never a stand-still."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_cli.bench.raw.exchange import Exchange, answer, begin


class Way:
    """Messages on their way to one side, and the most that there were."""

    def __init__(self) -> None:
        self.waiting = 0
        self.passed = 0
        self.bytes = 0
        self.most = 0
        self.news = asyncio.Event()


class QueueSide:
    """A side whose broker is two counters."""

    def __init__(self, towards: Way, mine: Way) -> None:
        self._towards = towards
        self._mine = mine
        self.flushed = False

    async def send(self, messages: int, size: int) -> None:
        self._towards.waiting += messages
        self._towards.bytes += messages * size
        self._towards.most = max(self._towards.most, self._towards.waiting)
        self._towards.news.set()

    async def sent(self) -> None:
        self.flushed = True

    async def take(self) -> int:
        """One by one, which is the hardest for the other side."""
        while not self._mine.waiting:
            self._mine.news.clear()
            await self._mine.news.wait()
        self._mine.waiting -= 1
        self._mine.passed += 1
        return 1

    async def close(self) -> None:
        raise AssertionError("who opened it closes it")


async def exchanged(exchange: Exchange) -> tuple[Way, Way]:
    there, back = Way(), Way()
    first, second = QueueSide(there, back), QueueSide(back, there)
    async with asyncio.timeout(20):
        await asyncio.gather(begin(first, exchange), answer(second, exchange))
    assert first.flushed
    assert second.flushed
    return there, back


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 50))
def test_all_messages_pass_whatever_the_sizes_of_both_ways(out: int, back: int, window: int) -> None:
    there, home = asyncio.run(exchanged(Exchange(out=out, out_bytes=7, back=back, back_bytes=3, window=window)))
    assert (there.passed, there.bytes) == (out, 7 * out)
    assert (home.passed, home.bytes) == (back, 3 * back)
    assert there.waiting == home.waiting == 0


@pytest.mark.parametrize(("out", "back"), [(500, 500), (500, 50), (50, 500)])
async def test_no_more_than_the_window_is_on_its_way(out: int, back: int) -> None:
    there, _ = await exchanged(Exchange(out=out, out_bytes=1, back=back, back_bytes=1, window=20))
    assert 11 <= there.most <= 20


async def test_a_window_that_would_stand_still_is_as_wide_as_one_answer_needs() -> None:
    there, _ = await exchanged(Exchange(out=90, out_bytes=1, back=3, back_bytes=1, window=1))
    assert there.most == 31


def test_a_part_has_at_least_one_message_each_way() -> None:
    whole = Exchange(out=200, out_bytes=10, back=5, back_bytes=20, window=40)
    assert whole.part(0.1) == Exchange(out=20, out_bytes=10, back=1, back_bytes=20, window=40)
