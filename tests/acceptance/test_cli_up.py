"""`stepmesh up` and the commands that talk to it, all as processes; it ends cleanly and goes on where it stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.processes import until
from tests.services.producers import nats_records

from stepmesh_broker.nats.folder import read_endpoint
from stepmesh_orchestrator.core.flow.compile import compile_flow

pytestmark = pytest.mark.acceptance

STEPS = """
import asyncio
from pathlib import Path
from stepmesh import Worker

worker = Worker(pool="cpu")


@worker.component
async def double(n: int) -> int:
    return 2 * n


@worker.component
async def gate(name: str) -> str:
    print("waiting for", name)
    while not Path(name).exists():
        await asyncio.sleep(0.05)
    return "open"
"""
FLOW = "name: {0}\nsteps:\n  - {{id: a, component: /cpu/{0}, input: {{$input: $}}}}\noutput: {{$step: a}}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    Path("steps.py").write_text(STEPS)
    for name in ("double", "gate"):
        Path(f"{name}.yaml").write_text(FLOW.format(name))


class Up:
    """A running `stepmesh up`; what it says is read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []

    def until(self, text: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if text in line:
                return
        raise AssertionError(f"it ended without saying {text!r}: {''.join(self.said)}")

    def end(self) -> tuple[int, str]:
        assert self.process.stderr is not None
        self.said.append(self.process.stderr.read())
        return self.process.wait(60), "".join(self.said)


@contextmanager
def running(*arguments: str) -> Iterator[Up]:
    command = [sys.executable, "-m", "stepmesh_cli", "up", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    up = Up(process)
    try:
        up.until("stepmesh is up")
        yield up
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def stepmesh(*arguments: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "stepmesh_cli", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def objects(*arguments: str, code: int = 0) -> list[Any]:
    return [json.loads(line) for line in stepmesh(*arguments, "--json", code=code).splitlines()]


def test_the_whole_round() -> None:
    with running("--worker", "steps.py") as up:
        run = stepmesh("submit", "double.yaml", "--input-json", "21").strip()
        assert objects("events", run, "--follow")[-1]["kind"] == "run_completed"
        [status] = objects("status", run)
        assert status["run"]["status"] == "completed"
        assert [(step["step_id"], step["status"], step["output"]) for step in status["steps"]] == [("a", "success", 42)]
        assert stepmesh("submit", "double.yaml", "--input-json", "4", "--wait") == '{"outcome":"success","result":8}\n'
        assert {entry["path"] for entry in objects("components")} >= {"/cpu/double", "/cpu/gate", "/builtin/openai"}
        assert {pool["pool"]: len(pool["workers"]) for pool in objects("pools")} == {"builtin": 1, "cpu": 1}
        assert [one["status"] for one in objects("list", "--flow", "double")] == ["completed", "completed"]
        for table in (
            ("status", run),
            ("list",),
            ("events", run),
            ("components",),
            ("pools",),
            ("workers",),
            ("doctor",),
            ("dead-letters",),
        ):
            assert stepmesh(*table)

        stuck = objects("submit", "gate.yaml", "--input-json", '"never"')[0]["run"]
        up.until("waiting for never")
        [why] = objects("explain", stuck)
        assert "/cpu/gate" in why["causes"][0]
        assert objects("cancel", stuck)[0] == {"run": stuck, "status": "cancelled"}
        assert objects("status", stuck, code=1)[0]["run"]["status"] == "cancelled"
        assert [one["run"] for one in objects("list", "--status", "cancelled")] == [stuck]
        assert objects("delete", stuck)[0] == {"run": stuck, "status": "deleted"}
        assert objects("list", "--status", "cancelled") == []

        up.process.send_signal(signal.SIGTERM)
        code, said = up.end()
    assert code == 0
    assert "Traceback" not in said
    assert not Path(".stepmesh/nats/endpoint.json").exists()


def test_a_running_task_is_finished_before_it_ends() -> None:
    with running("--worker", "steps.py") as up:
        run = stepmesh("submit", "gate.yaml", "--input-json", '"gate-opens"').strip()
        up.until("waiting for gate-opens")
        up.process.send_signal(signal.SIGTERM)
        up.until("stopping")
        Path("gate-opens").touch()
        code, said = up.end()
    assert code == 0
    assert "did not drain" not in said
    with running():
        assert objects("status", run)[0]["steps"][0]["output"] == "open"


def test_a_task_that_outlives_the_grace_goes_on_after_the_next_start() -> None:
    with running("--worker", "steps.py", "--grace", "1") as up:
        run = stepmesh("submit", "gate.yaml", "--input-json", '"late"').strip()
        up.until("waiting for late")
        up.process.send_signal(signal.SIGTERM)
        assert up.end()[0] == 0
    Path("late").touch()
    with running("--worker", "steps.py"):
        objects("events", run, "--follow")
        assert objects("status", run)[0]["run"]["status"] == "completed"


def test_a_killed_deployment_goes_on_where_it_was() -> None:
    with running("--worker", "steps.py") as up:
        run = stepmesh("submit", "gate.yaml", "--input-json", '"after-crash"').strip()
        up.until("waiting for after-crash")
        up.process.kill()
        up.process.wait(60)
    Path("after-crash").touch()
    with running("--worker", "steps.py"):
        objects("events", run, "--follow")
        assert objects("status", run)[0]["run"]["status"] == "completed"


def test_a_worker_started_apart_serves_it() -> None:
    with running("--data", "elsewhere") as up:
        run = stepmesh("submit", "double.yaml", "--input-json", "5", "--data", "elsewhere").strip()
        command = [sys.executable, "-m", "stepmesh_cli", "worker", "steps.py", "--data", "elsewhere", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            assert json.loads(worker.stdout.readline())["components"] == ["/double", "/gate"]
            objects("events", run, "--follow", "--data", "elsewhere")
            worker.send_signal(signal.SIGTERM)
        assert worker.returncode == 0
        [status] = objects("status", run, "--data", "elsewhere")
        assert status["steps"][0]["output"] == 10
        up.process.send_signal(signal.SIGINT)
        assert up.end()[0] == 0


def test_a_second_one_on_the_same_folder_is_refused() -> None:
    with running("--json") as up:
        assert up.process.stdout is not None
        ready = json.loads(up.process.stdout.readline())
        assert (ready["ready"], ready["pid"]) == (True, up.process.pid)
        done = subprocess.run([sys.executable, "-m", "stepmesh_cli", "up"], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert f"SM-0102 the data folder {os.path.realpath('.stepmesh')} is in use by process {up.process.pid}" in done.stderr
        assert stepmesh("submit", "double.yaml", "--input-json", "1").strip()


def test_an_unknown_run_is_bad_input() -> None:
    with running():
        for command in ("status", "events", "cancel", "explain"):
            assert stepmesh(command, "01928f6e-0000-7000-8000-000000000001", code=2) == ""


def test_the_same_key_is_the_same_run() -> None:
    with running("--worker", "steps.py"):
        first, second = (objects("submit", "double.yaml", "--input-json", "1", "--run-key", "k", "--tag", "a=b")[0] for _ in range(2))
        assert first["run"] == second["run"]
        assert (first["existing"], second["existing"]) == (False, True)
        assert objects("status", first["run"])[0]["run"]["tags"] == {"a": "b"}


async def test_what_nobody_could_take_is_listed_and_dropped() -> None:
    with running():
        url = read_endpoint(Path(".stepmesh"))
        assert url is not None
        await nats_records(url, "default", [(b"no submission", "k", {}), (b"\xff\xfe", "k", {})])
        await until("both lie there", lambda: len(objects("dead-letters")) == 2)
        first, second = objects("dead-letters", "--pool", "submit")
        assert (first["pool"], first["size"], first["data"]) == ("submit", 13, "no submission")
        assert first["reason"].startswith("SM-3050")
        assert second["data_base64"] == "//4="
        assert objects("dead-letters", "--pool", "cpu") == []
        assert len(objects("dead-letters", "--limit", "1")) == 1
        assert r"'\ufffd\ufffd'" in stepmesh("dead-letters")
        assert stepmesh("dead-letters", "--drop", str(first["position"])) == f"dead letter {first['position']}: dropped\n"
        stepmesh("dead-letters", "--drop", str(first["position"]), code=2)
        assert objects("dead-letters") == [second]
        for limit, code in (("0", 2), ("1", 0), ("500", 0), ("501", 2)):
            stepmesh("dead-letters", "--limit", limit, code=code)


async def test_records_that_came_too_early_are_sent_again() -> None:
    document = {"name": "late", "steps": [{"id": "a", "component": "/cpu/double", "input": {"$input": "$"}}], "output": {"$step": "a"}}
    compiled, _ = compile_flow(document)
    assert compiled is not None
    Path("late.json").write_text(json.dumps(document))
    value = json.dumps({"flowId": compiled.id, "input": [4]}).encode()
    with running("--worker", "steps.py"):
        url = read_endpoint(Path(".stepmesh"))
        assert url is not None
        await nats_records(url, "default", [(value, "one", {}), (value, "two", {}), (b"no submission", "", {})])
        await until("all lie there", lambda: len(objects("dead-letters")) == 3)
        first, second, third = (one["position"] for one in objects("dead-letters"))
        mine = objects("submit", "late.json", "--input-json", "1")[0]["run"]

        assert stepmesh("dead-letters", "resend", str(first)) == f"dead letter {first}: sent to submit\n"
        stepmesh("dead-letters", "resend", str(first), code=2)
        assert objects("dead-letters", "resend", "--all", "--pool", "events") == []
        sent = objects("dead-letters", "resend", "--all")
        assert sent == [{"position": one, "status": "sent", "topic": "submit"} for one in (second, third)]
        await until("both began", lambda: len(objects("list")) == 3)
        keyed = [objects("submit", "late.json", "--input-json", "4", "--run-key", key)[0] for key in ("one", "two")]
        assert {one["run"] for one in keyed} == {one["run"] for one in objects("list")} - {mine}
        await until("the other lies there again", lambda: len(objects("dead-letters")) == 1)
        assert objects("dead-letters")[0]["position"] > third
        for wrong in ((), ("1", "--all"), ("--all", "--pool", "cpu"), ("--all", "--limit", "501"), ("1", "--pool", "submit")):
            stepmesh("dead-letters", "resend", *wrong, code=2)
