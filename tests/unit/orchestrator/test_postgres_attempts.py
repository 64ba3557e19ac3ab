"""How often a server that is away is tried, in virtual time: once for all who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import psycopg
import pytest
from tests.simulation.virtual_loop import run_virtual

from stepmesh_orchestrator.postgres.attempts import PAUSE_S, Attempts

WHY = "connection refused"
AWAY = psycopg.OperationalError(WHY)
FIRST_S, LARGEST_S = PAUSE_S


class Server:
    """`away`: what it answers, None for a connection. `takes_s`: until it answers. `at`: when it was tried."""

    def __init__(self, away: Exception | None = AWAY, takes_s: float = 0.0) -> None:
        self.away = away
        self.takes_s = takes_s
        self.at: list[float] = []
        self.most = 0
        self._now = 0
        self.attempts = Attempts(self.connect)

    async def connect(self) -> int:
        self.at.append(asyncio.get_running_loop().time())
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self._now -= 1
        if self.away is not None:
            raise self.away
        return len(self.at)

    async def ask(self) -> str:
        """Why it failed, or nothing."""
        try:
            await self.attempts.connection()
        except psycopg.OperationalError as problem:
            return str(problem)
        return ""

    async def ask_for(self, seconds: float, every_s: float = 0.001) -> None:
        """As many jobs as there are."""
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            assert await self.ask() == WHY
            await asyncio.sleep(every_s)


def virtually(main: Coroutine[Any, Any, None]) -> None:
    run_virtual(main)


def test_a_server_that_is_away_is_tried_ever_less_often_up_to_once_a_second() -> None:
    server = Server()
    virtually(server.ask_for(10.0))
    gaps = [round(later - earlier, 2) for earlier, later in zip(server.at, server.at[1:], strict=False)]
    assert gaps[:6] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]
    assert set(gaps[5:]) == {LARGEST_S}


@pytest.mark.parametrize(("after_s", "tried"), [(FIRST_S - 0.001, 1), (FIRST_S + 0.001, 2)])
def test_before_the_pause_is_over_all_hear_of_the_last_failure_at_once(after_s: float, tried: int) -> None:
    async def main() -> None:
        server = Server()
        assert await server.ask() == WHY
        await asyncio.sleep(after_s)
        assert [await server.ask() for _ in range(3)] == [WHY] * 3
        assert len(server.at) == tried

    virtually(main())


def test_after_a_failure_one_attempt_is_under_way_at_most() -> None:
    async def main() -> None:
        server = Server()
        await server.ask()
        await asyncio.sleep(FIRST_S)
        server.takes_s = 5.0
        began = asyncio.get_running_loop().time()
        trying = asyncio.create_task(server.ask())
        await asyncio.sleep(1.0)
        assert await asyncio.gather(*(server.ask() for _ in range(10))) == [WHY] * 10
        assert asyncio.get_running_loop().time() == began + 1.0
        assert not trying.done()
        assert await trying == WHY
        assert (len(server.at), server.most) == (2, 1)

    virtually(main())


def test_many_that_fail_side_by_side_are_one_failure() -> None:
    async def main() -> None:
        server = Server(takes_s=0.01)
        assert await asyncio.gather(*(server.ask() for _ in range(16))) == [WHY] * 16
        assert server.most == 16
        await asyncio.sleep(FIRST_S + 0.001)
        await server.ask()
        assert len(server.at) == 17

    virtually(main())


def test_a_server_that_answers_is_tried_side_by_side_again() -> None:
    async def main() -> None:
        server = Server()
        await server.ask_for(3.0)
        server.away, server.takes_s = None, 0.01
        await asyncio.sleep(LARGEST_S)
        assert await server.ask() == ""
        assert await asyncio.gather(*(server.ask() for _ in range(8))) == [""] * 8
        assert server.most == 8
        server.away = AWAY
        server.at.clear()
        await server.ask_for(0.1)
        assert len(server.at) == 2, "the pause begins small again"

    virtually(main())


def test_an_attempt_that_is_cancelled_says_nothing_about_the_server() -> None:
    async def main() -> None:
        server = Server()
        await server.ask()
        await asyncio.sleep(FIRST_S)
        server.away, server.takes_s = None, 1.0
        trying = asyncio.create_task(server.attempts.connection())
        await asyncio.sleep(0.5)
        trying.cancel()
        await asyncio.wait([trying])
        assert trying.cancelled()
        assert await server.ask() == ""

    virtually(main())


def test_who_begins_anew_does_not_wait() -> None:
    async def main() -> None:
        server = Server()
        await server.ask_for(3.0)
        server.away = None
        assert await server.ask() == WHY
        server.attempts.forget()
        assert await server.ask() == ""

    virtually(main())
