"""`stepmesh run` as a process: results, exit codes, workers, and every bad input that the command line meets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.acceptance

STEPS = """
import asyncio
from stepmesh import Worker

worker = Worker(pool="cpu")


@worker.component
async def double(n: int) -> int:
    print("doubling", n)
    return 2 * n


@worker.component
async def slow(seconds: float) -> str:
    print("slow begins")
    await asyncio.sleep(seconds)
    return "slept"
"""
DOUBLE = "name: double\nsteps:\n  - {id: a, component: /cpu/double, input: {$input: n}}\noutput: {$step: a}\n"
NOOP = "name: noop\nsteps:\n  - {id: a, component: /builtin/noop, input: {$input: $}}\noutput: {$step: a}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    for name, text in (("steps.py", STEPS), ("double.yaml", DOUBLE), ("noop.yaml", NOOP)):
        Path(name).write_text(text)


def stepmesh(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stepmesh_cli", *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def results(done: subprocess.CompletedProcess[str]) -> list[Any]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_builtin_flow_from_stdin() -> None:
    done = stepmesh("run", "-", "--input-yaml", "{n: 1}", stdin=NOOP)
    assert (done.returncode, results(done)) == (0, [{"outcome": "success", "result": {"n": 1}}])


def test_a_python_worker_in_its_own_process() -> None:
    done = stepmesh("run", "double.yaml", "--input-json", '{"n": 21}', "--worker", "steps.py")
    assert (done.returncode, results(done)) == (0, [{"outcome": "success", "result": 42}])
    assert "[steps] doubling 21" in done.stderr


def test_a_batch_over_two_processes_has_one_result_per_line_in_order() -> None:
    Path("in.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(50)) + '{"n": "x"}\n')
    done = stepmesh("run", "double.yaml", "--inputs", "in.jsonl", "--worker", "steps", "--workers", "2")
    assert done.returncode == 1
    found = results(done)
    assert [item.get("result") for item in found[:50]] == [2 * n for n in range(50)]
    assert found[50]["error"]["code"] == "INVALID_INPUT"
    assert "50 of 51 items completed, 1 failed" in done.stderr


def test_a_mock_of_the_configuration_beside_the_flow() -> None:
    Path("stepmesh.yml").write_text(
        "plugins: {m: {type: mock, components: {/say: {behaviors: {'1': {outcome: success, result: [1.0, 2]}, '2': {error: kaput}}}}}}\n"
        "routes: {/m: [{plugin: m}]}\n"
    )
    Path("say.yaml").write_text("steps: [{id: a, component: /m/say, input: {$input: $}}]\noutput: {$step: a}\n")
    done = stepmesh("run", "say.yaml", "--input-json", "1")
    assert done.stdout == '{"outcome":"success","result":[1.0,2]}\n'
    done = stepmesh("run", "say.yaml", "--input-json", "2")
    assert (done.returncode, results(done)[0]["error"]["message"]) == (1, "kaput")


def test_a_worker_plugin_with_a_command() -> None:
    Path("stepmesh.yml").write_text(
        f"plugins: {{mine: {{type: worker, command: {sys.executable}, args: [-m, stepmesh_cli, worker, steps.py]}}}}\n"
        "routes: {/cpu: [{plugin: mine}]}\n"
    )
    done = stepmesh("run", "double.yaml", "--input-json", '{"n": 3}')
    assert (done.returncode, results(done)) == (0, [{"outcome": "success", "result": 6}])


def test_variables_overrides_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("v.yaml").write_text(
        "schemas: {type: object, properties: {variables: {type: object, required: [key], properties: "
        "{key: {type: string, env_var: MY_KEY}, n: {type: integer, default: 1}}}}}\n"
        "steps: [{id: a, component: /builtin/noop, input: 1}]\n"
        "output: [{$variable: key}, {$variable: n}, {$step: a}]\n"
    )
    monkeypatch.setenv("MY_KEY", "007")
    done = stepmesh("run", "v.yaml", "--variables", '{"n": 5}', "--overrides", '{"a": {"value": {"input": 9}}}')
    assert results(done) == [{"outcome": "success", "result": ["007", 5, 9]}]
    monkeypatch.delenv("MY_KEY")
    done = stepmesh("run", "v.yaml")
    assert done.returncode == 2
    assert "key" in done.stderr


def test_json_is_one_object_with_the_run() -> None:
    done = stepmesh("run", "noop.yaml", "--input-json", "1", "--json")
    [found] = results(done)
    assert found["status"] == "completed"
    assert found["items"] == {"total": 1, "completed": 1, "failed": 0, "cancelled": 0}
    assert found["results"] == [{"outcome": "success", "result": 1}]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.yaml"], "SM-0108 there is no flow file nowhere.yaml"),
        (["noop.yaml", "--input-json", '{"n":'], "SM-0108 --input-json:1:"),
        (["noop.yaml", "--input", "nowhere.json"], "SM-0108 cannot read nowhere.json"),
        (["noop.yaml", "--config", "nowhere.yml"], "SM-0203 there is no configuration file nowhere.yml"),
        (["noop.yaml", "--data", "steps.py"], "SM-0103 the data folder"),
        (["noop.yaml", "--broker", "rabbit"], "SM-0101 'rabbit' is not a broker"),
        (["noop.yaml", "--broker", "memory", "--worker", "steps.py"], "SM-0101 worker processes cannot reach a broker in memory"),
        (["double.yaml", "--input-json", '{"n": 1}', "--worker", "nowhere"], "SM-0105 worker nowhere ended with code 2"),
        (["noop.yaml", "--variables", "[1]"], "SM-0108 --variables: --variables wants an object"),
        (["steps.py"], "SM-2"),
    ],
)
def test_bad_input_is_one_clear_error(arguments: list[str], told: str) -> None:
    done = stepmesh("run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_two_configurations_in_a_folder_are_refused() -> None:
    Path("stepmesh.yml").write_text("{}")
    Path("stepflow-config.yml").write_text("{}")
    done = stepmesh("run", "noop.yaml")
    assert done.returncode == 2
    assert "SM-0201" in done.stderr
    assert "stepmesh.yml, stepflow-config.yml" in done.stderr


def test_an_invalid_configuration_is_told_with_its_line() -> None:
    Path("stepmesh.yml").write_text("plugins:\n  x: {type: nope}\n")
    done = stepmesh("run", "noop.yaml")
    assert done.returncode == 2
    assert "SM-0200" in done.stderr
    assert "stepmesh.yml:2" in done.stderr


def test_a_port_in_use_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = stepmesh("up", "--port", str(port))
    assert done.returncode == 2
    assert f"SM-3011 port {port}" in done.stderr


def test_a_broker_that_is_away_ends_with_3() -> None:
    done = stepmesh("run", "noop.yaml", "--broker", "nats://127.0.0.1:1")
    assert done.returncode == 3
    assert "SM-3001" in done.stderr


def test_a_timeout_cancels_and_ends_with_1() -> None:
    Path("slow.yaml").write_text("steps: [{id: a, component: /cpu/slow, input: 60}]\noutput: {$step: a}\n")
    done = stepmesh("run", "slow.yaml", "--worker", "steps.py", "--timeout", "1")
    assert done.returncode == 1
    assert "SM-5102" in done.stderr


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_order(sign: signal.Signals, code: int) -> None:
    Path("slow.yaml").write_text("steps: [{id: a, component: /cpu/slow, input: 60}]\noutput: {$step: a}\n")
    command = [sys.executable, "-m", "stepmesh_cli", "run", "slow.yaml", "--worker", "steps.py", "--data", "kept"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "slow begins" in line:
                break
        process.send_signal(sign)
        rest = process.stderr.read()
    assert process.returncode == code
    assert "Traceback" not in rest
    assert not Path("kept/nats/endpoint.json").exists()


def test_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    Path("in.jsonl").write_text('{"n": 1}\n' * 20_000)
    done = subprocess.run(
        [sys.executable, "-m", "stepmesh_cli", "run", "noop.yaml", "--inputs", "in.jsonl", "--quiet"],
        stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
