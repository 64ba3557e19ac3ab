"""A measurement in a process of its own: its end is told as what it was."""

from __future__ import annotations

import os
import pickle
from typing import Any

import pytest

from stepmesh import RunFailed
from stepmesh_cli.bench import measurement
from stepmesh_cli.bench.settings import BenchSettings
from stepmesh_cli.errors import CommandError


class Deadly(BenchSettings):
    """Ends the process that reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


class Unreadable(Exception):
    """Another process cannot make it again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def test_a_process_that_dies_is_said_to_have_died() -> None:
    with pytest.raises(CommandError, match="measured chain ended before it was done"):
        measurement.measure("chain", Deadly(), None, 1)


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (RunFailed("r1", 0, "UNREACHABLE", "nobody answered"), "SM-5101 run r1 item 0 failed with UNREACHABLE"),
        (Unreadable("one", "two"), "Unreadable: one and two"),
    ],
)
def test_what_ended_a_scenario_can_be_read_in_another_process(monkeypatch: pytest.MonkeyPatch, problem: Exception, told: str) -> None:
    async def failing(_: BenchSettings) -> dict[str, Any]:
        raise problem

    monkeypatch.setitem(measurement.SCENARIOS, "failing", failing)
    with pytest.raises((RunFailed, RuntimeError)) as caught:
        measurement._run("failing", BenchSettings())
    assert str(pickle.loads(pickle.dumps(caught.value))).startswith(told)
