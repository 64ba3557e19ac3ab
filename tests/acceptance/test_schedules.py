"""Schedules of a real deployment on an embedded NATS and SQLite: killed, down for a while, started again, and what it made up for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.test_cli_up import running, stepmesh

pytestmark = pytest.mark.acceptance
FLOW = "name: tick\nsteps:\n  - {id: a, component: /builtin/noop, input: {$input: $}}\noutput: {$step: a}\n"
DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    Path("tick.yaml").write_text(FLOW)


def create(name: str, *more: str) -> None:
    stepmesh("schedule", "create", name, "--flow", "tick.yaml", "--every", "1s", *more)


def shown(name: str) -> dict[str, Any]:
    return dict(json.loads(stepmesh("schedule", "show", name, "--json")))


def until(condition: Callable[[dict[str, Any]], bool], name: str) -> dict[str, Any]:
    """The schedule, once it is so."""
    limit = time.monotonic() + DEADLINE_S
    while not condition(found := shown(name)):
        assert time.monotonic() < limit, found
        time.sleep(0.1)
    return found


def test_what_was_due_while_nothing_ran_is_made_up_for_as_the_schedule_says() -> None:
    with running() as up:
        create("last")
        create("every", "--catch-up", "all", "--overlap", "allow", "--catch-up-max", "1000")
        create("paused", "--paused")
        until(lambda found: found["fired"] >= 1, "every")
        up.process.kill()
        up.process.wait()
    down = time.monotonic()
    while time.monotonic() < down + 2:  # nothing runs that could be asked
        time.sleep(0.1)
    with running():
        every = until(lambda found: found["fired"] >= 5, "every")
        last = until(lambda found: found["skipped"] >= 1, "last")
        assert every["skipped"] == 0
        assert "missed" in last["skipped_reason"]
        assert (shown("paused")["status"], shown("paused")["fired"]) == ("paused", 0)
        for name in ("last", "every"):
            stepmesh("schedule", "pause", name)
        every, last = until(lambda found: not found["live"], "every"), until(lambda found: not found["live"], "last")
        runs = [json.loads(line) for line in stepmesh("list", "--limit", "1000", "--json").splitlines()]
        assert len(runs) == every["fired"] + last["fired"], "a run for each due time that was met"
        assert len({run["run"] for run in runs}) == len(runs)
        assert {run["status"] for run in runs} == {"completed"}
        assert [json.loads(line)["schedule"]["id"] for line in stepmesh("schedule", "list", "--json").splitlines()] == [
            "every",
            "last",
            "paused",
        ]


def test_commands_end_as_they_should() -> None:
    with running():
        create("tick", "--paused", "--tag", "team=search", "--input-json", '{"n": 1}', "--variables", '{"v": 2}')
        create("tick", "--paused", "--tag", "team=search", "--input-json", '{"n": 1}', "--variables", '{"v": 2}')
        assert shown("tick")["schedule"]["input"] == {"n": 1}
        stepmesh("schedule", "create", "tick", "--flow", "tick.yaml", "--every", "2s", code=2)
        create("tick", "--replace", "--paused")
        stepmesh("schedule", "create", "bad", "--flow", "tick.yaml", "--cron", "0 25 * * *", code=2)
        stepmesh("schedule", "create", "bad", "--flow", "tick.yaml", "--cron", "* * * * *", "--tz", "Berlin", code=2)
        stepmesh("schedule", "create", "bad", "--flow", "tick.yaml", "--every", "1s", "--tag", "team", code=2)
        stepmesh("schedule", "show", "nobody", code=2)
        (run,) = json.loads(stepmesh("schedule", "trigger", "tick", "--json"))["runs"]
        assert json.loads(stepmesh("status", run, "--json"))["run"]["run"] == run
        stepmesh("schedule", "resume", "tick")
        assert json.loads(stepmesh("schedule", "delete", "tick", "--json")) == {"schedule": "tick", "status": "deleted"}
        assert stepmesh("schedule", "list", "--json") == ""
