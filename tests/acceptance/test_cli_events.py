"""Events and approvals as a person meets them, over processes that are killed: what waits and what was sent is there again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.acceptance.test_cli_up import objects, running, stepmesh

pytestmark = pytest.mark.acceptance

ORDER = """
name: order
steps:
  - {id: early, component: /builtin/wait_for_event, input: {name: packed, key: {$input: order}, since: 1h}}
  - {id: paid, component: /builtin/wait_for_event, input: {name: paid, key: {$input: order}}}
  - {id: ok, component: /builtin/approval, input: {title: "Send it?", approvers: [ann]}}
output: {early: {$step: early}, paid: {$step: paid}, by: {$step: ok, path: by}, ok: {$step: ok, path: approved}}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    Path("order.yaml").write_text(ORDER)


def token_of(run: str) -> str:
    """As `explain` shows it."""
    (token,) = re.findall(r"token (smt_\S+)", stepmesh("explain", run).partition("decision")[2])
    return str(token)


def test_what_waits_and_what_was_sent_outlives_a_kill() -> None:
    with running() as up:
        sent = objects("event", "send", "packed", "--key", "7", "--data", "box: 3", "--id", "e1")
        assert sent == [{"id": "e1", "matched": 0, "buffered": True, "existing": False}]
        run = stepmesh("submit", "order.yaml", "--input-json", '{"order": 7}').strip()
        token = token_of(run)
        asks = {"title": "Send it?", "approvers": ["ann"]}
        assert objects("approvals") == [{"run": run, "item": 0, "step": "ok", "token": token, "asks": asks}]
        assert "Send it?" in stepmesh("approvals", "--flow", "order")
        assert objects("approvals", "--flow", "other") == []
        up.process.kill()
        up.process.wait(60)
    with running() as up:
        assert "was there already" in stepmesh("event", "send", "packed", "--key", "7", "--id", "e1")
        assert "SM-5204" in refused("approve", token, "--by", "eve")
        assert stepmesh("approve", token, "--by", "ann", "--comment", "fine") == "approved\n"
        assert objects("approvals") == []
        up.process.kill()
        up.process.wait(60)
    with running():
        assert stepmesh("approve", token, "--by", "ann", "--comment", "fine") == "approved\n"
        assert "SM-1060 this token is settled already at 20" in refused("approve", token, "--by", "ann", "--reject")
        told = stepmesh("event", "send", "paid", "--key", "7", "--data", "12")
        assert told.endswith("1 waited for it\n")
        objects("events", run, "--follow")
        [status] = objects("status", run)
        assert status["run"]["status"] == "completed"
        assert [(step["step_id"], step["output"]) for step in status["steps"][:2]] == [("early", {"box": 3}), ("paid", 12)]
        decision = status["steps"][2]["output"]
        assert (decision["approved"], decision["by"], decision["comment"]) == (True, "ann", "fine")
        assert "SM-1060" in refused("approve", "nonsense")


def refused(*arguments: str) -> str:
    """What a command says that is a wrong call."""
    done = subprocess.run([sys.executable, "-m", "stepmesh_cli", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_the_json_of_a_decision() -> None:
    with running():
        run = stepmesh("submit", "order.yaml", "--input-json", '{"order": 8}').strip()
        assert objects("approve", token_of(run), "--by", "ann", "--reject") == [{"approved": False, "by": "ann", "comment": None}]
        steps = json.loads(stepmesh("status", run, "--json"))["steps"]
        assert {step["step_id"]: bool(step["token"]) for step in steps} == {"early": True, "paid": True, "ok": False}
