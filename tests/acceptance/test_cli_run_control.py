"""Pausing, waking, retrying, forking and acting on many runs from the command line, over an embedded broker and SQLite."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.acceptance.test_cli_up import objects, running, stepmesh

pytestmark = pytest.mark.acceptance

STEPS = """
from pathlib import Path
from stepmesh import Worker

worker = Worker(pool="cpu")


@worker.component
async def paid(n: int) -> int:
    with Path("calls.txt").open("a") as calls:
        print(n, file=calls)
    return 10 * n


@worker.component
async def check(n: int) -> int:
    if not Path("mended").exists():
        raise RuntimeError("not yet")
    return n
"""
FLOW = """
name: pay
steps:
  - {id: paid, component: /cpu/paid, input: {$input: n}}
  - {id: check, component: /cpu/check, input: {$step: paid}}
output: {$step: check}
"""
NAP = """
name: nap
steps:
  - {id: nap, component: /builtin/sleep, input: {duration: 10h, passthrough: {$input: $}}}
  - {id: paid, component: /cpu/paid, input: {$step: nap}}
output: {$step: paid}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    for name, text in {"steps.py": STEPS, "pay.yaml": FLOW, "nap.yaml": NAP}.items():
        Path(name).write_text(text)


def calls() -> list[int]:
    return sorted(int(line) for line in Path("calls.txt").read_text().split())


def ended(run: str) -> str:
    stepmesh("events", run, "--follow")
    return str(next(one["status"] for one in objects("list") if one["run"] == run))


def test_what_was_paid_for_is_not_paid_again() -> None:
    Path("inputs.jsonl").write_text('{"n": 1}\n{"n": 2}\n')
    with running("--worker", "steps.py") as up:
        run = stepmesh("submit", "pay.yaml", "--inputs", "inputs.jsonl", "--tag", "team=a").strip()
        assert ended(run) == "failed"
        assert calls() == [1, 2]
        stepmesh("retry", run, "--from", "chekc", code=2)
        Path("mended").touch()

        retried = stepmesh("retry", run).strip()
        assert ended(retried) == "completed"
        assert calls() == [1, 2]
        [status] = objects("status", retried)
        assert status["run"]["tags"] == {"team": "a", "retry_of": run}
        assert [step["output"] for step in status["steps"]] == [10, 10, 20, 20]

        [forked] = objects("fork", run, "--item", "1", "--input-json", '{"n": 3}')
        assert ended(forked["run"]) == "completed"
        assert calls() == [1, 2, 3]
        assert ended(stepmesh("fork", retried, "--from", "check").strip()) == "completed"
        assert calls() == [1, 2, 3]
        stepmesh("retry", retried, code=2)

        up.process.send_signal(signal.SIGTERM)
        assert up.end()[0] == 0
    [replayed] = objects("replay", forked["run"], "--data", ".stepmesh")
    assert [step["status"] for step in replayed["items"][0]["steps"]] == ["success", "success"]


def test_a_paused_run_outlives_its_deployment() -> None:
    with running("--worker", "steps.py") as up:
        run = stepmesh("submit", "nap.yaml", "--input-json", "4").strip()
        assert stepmesh("pause", run, "--reason", "wait") == f"run {run}: paused\n"
        assert stepmesh("pause", run) == f"run {run}: was paused already\n"
        up.process.kill()
        up.process.wait(60)
    with running("--worker", "steps.py"):
        assert [one["run"] for one in objects("list", "--status", "paused")] == [run]
        [why] = objects("explain", run)
        assert "stepmesh resume" in why["causes"][0]
        assert objects("wake", run)[0] == {"run": run, "woken": ["nap"]}
        assert not Path("calls.txt").exists()
        assert objects("resume", run)[0] == {"run": run, "status": "running"}
        assert ended(run) == "completed"
        assert calls() == [4]
        stepmesh("resume", run, code=2)
        stepmesh("wake", run, code=2)


def test_many_runs_at_once() -> None:
    with running():
        runs = [stepmesh("submit", "nap.yaml", "--input-json", "4", "--tag", f"team={team}").strip() for team in "aab"]
        stepmesh("runs", "pause", code=2)
        stepmesh("runs", "pause", runs[0], "--status", "running", code=2)
        stepmesh("runs", "pause", "--tag", "team=a", code=2)
        assert objects("list", "--status", "paused") == []
        assert {one["run"] for one in objects("runs", "pause", "--tag", "team=a", "--dry-run")} == set(runs[:2])
        assert objects("list", "--status", "paused") == []
        told = objects("runs", "pause", "--tag", "team=a", "--flow", "nap", "--yes")
        assert {(one["run"], one["done"]) for one in told} == {(runs[0], True), (runs[1], True)}
        assert len(objects("list", "--status", "paused")) == 2
        stepmesh("runs", "resume", "--status", "paused", "--yes")
        assert objects("list", "--status", "paused") == []
        stepmesh("runs", "delete", runs[0], code=1)
        stepmesh("runs", "cancel", *runs)
        again = objects("runs", "retry", runs[0])[0]["new"]
        stepmesh("runs", "cancel", again)
        stepmesh("runs", "delete", "--status", "cancelled", "--yes")
        assert objects("list") == []
