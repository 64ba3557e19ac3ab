"""A body that asks what a replay would answer otherwise is stopped where it does; the same calls elsewhere are as they were."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.durable.bodies import BEGAN_MS

from stepmesh.durable import guards
from stepmesh.durable.execution import Execution, State, Turn
from stepmesh.durable.guards import Outward, Undetermined, Unordered, guarded
from stepmesh.durable.loop import LoopForbidden
from stepmesh_broker.errors import StepmeshError

guarded()
HERE = Path(__file__).name


def turn_of(ask: Callable[[], Any], policy: Any = "error") -> Turn:
    async def body() -> Any:
        found = ask()
        return await found if asyncio.iscoroutine(found) else found

    execution = Execution(body, BEGAN_MS)
    execution.loop.policy = policy
    try:
        return execution.turn()
    finally:
        execution.drop()


async def wait() -> Any:
    return await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))])


ASKED: list[tuple[Callable[[], Any], type[StepmeshError], str]] = [
    (time.time, Undetermined, "wf.now()"),
    (time.monotonic_ns, Undetermined, "wf.now()"),
    (lambda: time.sleep(0), Undetermined, "wf.sleep"),
    (random.random, Undetermined, "wf.random()"),
    (lambda: random.choice([1, 2]), Undetermined, "wf.random()"),
    (uuid.uuid4, Undetermined, "wf.uuid()"),
    (lambda: os.urandom(2), Undetermined, "wf.random()"),
    (secrets.token_hex, Undetermined, "step"),
    (lambda: Path(__file__).read_text(), Outward, "step"),
    (lambda: os.listdir("."), Outward, "step"),
    (lambda: socket.create_connection(("127.0.0.1", 9), timeout=1), Outward, "step"),
    (lambda: subprocess.run([sys.executable, "--version"]), Outward, "step"),
    (wait, Unordered, "wf.wait"),
    (lambda: list(asyncio.as_completed([])), Unordered, "wf.first"),
    (lambda: asyncio.to_thread(int), LoopForbidden, "step"),
    (lambda: asyncio.create_subprocess_exec("true"), LoopForbidden, "step"),
    (lambda: asyncio.open_connection("127.0.0.1", 9), LoopForbidden, "step"),
]


@pytest.mark.parametrize(("ask", "kind", "fix"), ASKED, ids=[str(number) for number in range(len(ASKED))])
def test_it_is_refused_with_the_place_and_the_fix(ask: Callable[[], Any], kind: type[StepmeshError], fix: str) -> None:
    turn = turn_of(ask)
    assert (turn.state, type(turn.error)) == (State.FAILED, kind)
    assert isinstance(turn.error, kind)
    assert f"{HERE}:" in str(turn.error)
    assert fix in turn.error.hint


def test_a_worker_may_only_warn_or_look_away(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(guards.log, "warning", lambda text, *values: said.append(text % values))
    assert turn_of(time.time, "off").state is State.DONE
    assert said == []
    assert turn_of(time.time, "warn").state is State.DONE
    (line,) = said
    assert "SM-1010" in line
    assert f"{HERE}:" in line
    assert turn_of(time.time, "warn").state is State.DONE
    assert len(said) == 1, "once for each place"


def test_a_log_line_in_a_body_is_no_decision() -> None:
    def ask() -> None:
        logging.getLogger("orders").warning("reserved")

    assert turn_of(ask).state is State.DONE


def test_elsewhere_nothing_is_changed() -> None:
    async def ordinary() -> Any:
        done, _ = await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0, 5))])
        return [one.result() for one in done]

    assert asyncio.run(ordinary()) == [5]
    assert time.time() > BEGAN_MS / 1000
    assert 0 <= random.random() < 1
    assert Path(__file__).read_text()
