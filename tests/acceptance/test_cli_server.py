"""`stepmesh server` as a process: what a launcher sees of it. Flags and environment are those of stepflow-server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.acceptance.servers import command, serving, started

pytestmark = pytest.mark.acceptance
CONFIG = "plugins: {builtin: {type: builtin}}\nroutes: {/builtin: [{plugin: builtin}]}\nstorageConfig: {type: inMemory}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STEPMESH_URL", "STEPFLOW_PORT", "STEPFLOW_CONFIG", "STEPFLOW_ORCHESTRATOR_URL"):
        monkeypatch.delenv(name, raising=False)
    Path("stepflow-config.yml").write_text(CONFIG)


def refused(*arguments: str, **environment: str) -> str:
    done = subprocess.run(command("server", *arguments), capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def answers(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        return True


def test_the_port_is_all_of_stdout_and_answers_then() -> None:
    with serving("-c", "stepflow-config.yml", "--log-level", "info") as server:
        assert answers(server.port)
        server.until(f"serves gRPC and HTTP on {server.address}")
        server.process.send_signal(signal.SIGTERM)
        code, said = server.end()
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""
    assert code == 0
    assert "Traceback" not in said


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_within_seconds(sign: signal.Signals) -> None:
    with serving() as server:
        began = time.monotonic()
        server.process.send_signal(sign)
        assert server.end()[0] == 0
    assert time.monotonic() - began < 5


def test_a_second_signal_waits_for_no_worker(tmp_path: Path) -> None:
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('here', flush=True)\nwhile True: signal.pause()"
    config = {"plugins": {"w": {"type": "grpc", "queueName": "q", "command": sys.executable, "args": ["-c", stubborn]}}}
    Path("c.json").write_text(json.dumps(config))
    with serving("-c", "c.json", "--grace", "60") as server:
        server.until("[w] here")
        server.process.send_signal(signal.SIGTERM)
        server.until("stopping")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code, said = server.end()
    assert code == 143
    assert time.monotonic() - began < 5
    assert "Traceback" not in said


def test_the_environment_of_stepflow_server_counts() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"STEPFLOW_PORT": str(port), "STEPFLOW_CONFIG": "stepflow-config.yml", "STEPFLOW_LOG_LEVEL": "debug"}
    with started(command("server"), environment=environment) as server:
        assert server.port == port
        assert answers(port)


def test_the_launcher_of_stepflow_starts_it() -> None:
    """Its wrapper calls one path with these flags, and writes JSON to stdin."""
    program = str(Path(sys.executable).with_name("stepmesh-server"))
    argv = [program, "--port", "0", "--log-level", "warn", "--config-stdin"]
    with started(
        argv, stdin=json.dumps({"plugins": {"builtin": {"type": "builtin"}}, "routes": {}, "recovery": {"enabled": True}})
    ) as server:
        assert answers(server.port)
        server.until("recovery: this version accepts the key")


def test_only_a_configuration_that_is_named_is_read() -> None:
    Path("stepflow-config.yml").write_text("plugins: [")
    with serving() as server:
        assert answers(server.port)


def test_a_port_that_is_taken_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused("-p", str(port))
    assert f"SM-7111 port {port} of 127.0.0.1 cannot be opened" in said
    assert "→ name another port" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-p", "70000"], "SM-0101 there is no port 70000"),
        (["-p", "http"], "SM-0100"),
        (["-c", "nowhere.yml"], "SM-0203 there is no configuration file nowhere.yml"),
        (["-c", "wrong.yml"], "SM-0200 wrong.yml:1:"),
        (["-c", "redis.yml"], "SM-0107 metadata of type redis is not in this version"),
        (["-c", "unset.yml"], "SM-0202 unset.yml:1:"),
        (["--config-stdin", "-c", "wrong.yml"], "SM-0101 --config-stdin and a configuration file exclude each other"),
        (["--log-destination", "file"], "SM-0101 --log-destination file wants --log-file"),
        (["--trace-enabled"], "SM-0101 --trace-enabled and --metrics-enabled want --otlp-endpoint"),
        (["--host", "no.such.host.invalid"], "SM-7111 port 0 of no.such.host.invalid cannot be opened"),
        (["--broker", "rabbit"], "SM-0101 'rabbit' is not a broker"),
    ],
)
def test_a_wrong_call_is_one_clear_error(arguments: list[str], told: str) -> None:
    Path("wrong.yml").write_text("plugins: {x: {type: grcp}}")
    Path("unset.yml").write_text("plugins: {x: {type: grpc, queueName: '${NOBODY_SET_THIS}'}}")
    Path("redis.yml").write_text("storageConfig: {type: redis, url: 'redis://h'}")
    said = refused("-p", "0", *arguments) if arguments[0] != "-p" else refused(*arguments)
    assert told in said
    assert "Traceback" not in said


def test_the_log_may_go_to_a_file_as_json() -> None:
    flags = (
        "--log-destination",
        "file",
        "--log-file",
        "server.log",
        "--log-format",
        "json",
        "--log-level",
        "debug",
        "--other-log-level",
        "debug",
    )
    with serving(*flags) as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.end()[0] == 0
    lines = [json.loads(line) for line in Path("server.log").read_text().splitlines()]
    assert lines
    assert all({"timestamp", "level", "target", "message"} <= line.keys() for line in lines)


def test_a_gateway_alone_needs_a_broker() -> None:
    done = subprocess.run(command("gateway", "-p", "0"), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "")
    assert "SM-0110" in done.stderr
    done = subprocess.run(command("gateway", "-p", "0", "--url", "grpc://127.0.0.1:1"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "SM-0101 a gateway stands over a broker" in done.stderr


def test_a_gateway_over_the_broker_of_another_process() -> None:
    with serving("--broker", "embedded", "--data", "data"), started(command("gateway", "-p", "0", "--data", "data")) as gateway:
        assert answers(gateway.port)
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.end()[0] == 0


def test_one_more_port_for_grpc_alone() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with serving("--grpc-port", str(port)) as server:
        assert answers(server.port)
        assert answers(port)
        assert port != server.port


FLOW = "name: noop\nsteps: [{id: a, component: /builtin/noop, input: {$input: $}}]\noutput: {$step: a}\n"


def test_every_command_on_a_deployment_works_through_a_gateway() -> None:
    Path("flow.yaml").write_text(FLOW)
    with serving("--data", "data") as server:
        environment = {**os.environ, "STEPMESH_URL": f"grpc://{server.address}"}

        def said(*arguments: str) -> str:
            argv = [sys.executable, "-m", "stepmesh_cli", *arguments]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment)
            assert done.returncode == 0, (arguments, done.stderr)
            return done.stdout

        assert said("submit", "flow.yaml", "--input-json", "1", "--wait") == '{"outcome":"success","result":1}\n'
        run = said("submit", "flow.yaml", "--input-json", "2").strip()
        assert json.loads(said("events", run, "--follow", "--json").splitlines()[-1])["kind"] == "run_completed"
        assert json.loads(said("status", run, "--json"))["run"]["status"] == "completed"
        assert len(said("list", "--json").splitlines()) == 2
        assert "the run is over" in said("explain", run)
        assert {json.loads(line)["path"] for line in said("components", "--json").splitlines()} >= {"/builtin/noop", "/builtin/map"}
        assert "## `noop`" in said("components", "--markdown")
        assert json.loads(said("pools", "--json"))["pool"] == "builtin"
        assert "deployment" in said("doctor")
        assert said("cancel", run)
        assert said("delete", run) is not None
        assert len(said("list", "--json").splitlines()) == 1


@pytest.mark.parametrize("flags", [(), ("--http", "0")])
def test_up_has_a_gateway_too(flags: tuple[str, ...]) -> None:
    with started(command("up", "--json", "--data", "data", *flags)) as up:
        line = up.until("  gateway: ")
        if up.port is None:
            assert "--http PORT" in line
        else:
            assert f"gRPC and HTTP on 127.0.0.1:{up.port}" in line
            assert answers(up.port)
        assert up.port is not None or not flags
        up.process.send_signal(signal.SIGTERM)
        assert up.end()[0] == 0
