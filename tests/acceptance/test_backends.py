"""The same flow through the command line on servers that people already operate: run, killed, gone on; what is told of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.acceptance.pairs import Pair
from tests.acceptance.servers import command, started

from stepmesh.client import Client

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
async def gate(n: int) -> int:
    while not Path("open").exists():
        await asyncio.sleep(0.05)
    return n + 1
"""
FLOW = """
name: two
steps:
  - {id: a, component: /cpu/double, input: {$input: $}}
  - {id: b, component: /cpu/gate, input: {$step: a}}
output: {$step: b}
"""
RUN = (
    Pair("embedded", "broker"),
    Pair("nats", "postgres"),
    Pair("nats-cluster", "broker"),
    Pair("memory", "redis"),
    Pair("kafka", "broker"),
)
KILLED = (
    Pair("nats", "postgres"),
    Pair("nats", "redis"),
    Pair("nats-cluster", "broker"),
    Pair("kafka", "postgres"),
    Pair("kafka-cluster", "broker"),
)

SHARED = (Pair("nats", "redis"), Pair("nats-cluster", "broker"), Pair("kafka", "broker"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    Path("steps.py").write_text(STEPS)
    Path("two.yaml").write_text(FLOW)


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


def stepmesh(*arguments: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "stepmesh_cli", *arguments], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


@contextmanager
def up(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`stepmesh up` and what it said when it was ready; killed at the end, with its workers."""
    command = [sys.executable, "-m", "stepmesh_cli", "up", "--json", "--http", "0", *arguments]
    with Path("up.log").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, Path("up.log").read_text()
            yield process, json.loads(line)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            process.stdout.close()


@contextmanager
def working(*arguments: str) -> Iterator[None]:
    """`stepmesh worker`, drained at the end."""
    with Path("worker.log").open("w") as log:
        process = subprocess.Popen(command("worker", "steps.py", *arguments), stdout=log, stderr=log)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, Path("worker.log").read_text()


@pytest.mark.parametrize("pair", RUN, ids=str)
def test_a_flow_runs(pair: Pair, namespace: str, request: pytest.FixtureRequest) -> None:
    broker, journal = pair.addresses(request)
    Path("open").touch()
    worker = () if pair.broker == "memory" else ("--worker", "steps.py")
    flow = "two.yaml" if worker else "noop.yaml"
    Path("noop.yaml").write_text(FLOW.replace("/cpu/double", "/builtin/noop").replace("/cpu/gate", "/builtin/noop"))
    said = stepmesh("run", flow, "--input-json", "4", "--broker", broker, "--journal", journal, *worker,
                    "--namespace", namespace, "--data", "data", "--quiet")  # fmt: skip
    assert json.loads(said) == {"outcome": "success", "result": 9 if worker else 4}


@pytest.mark.parametrize("pair", KILLED, ids=str)
def test_what_was_accepted_survives_the_process(pair: Pair, namespace: str, request: pytest.FixtureRequest) -> None:
    broker, journal = pair.addresses(request)
    serving = ("--broker", broker, "--journal", journal, "--namespace", namespace, "--data", "data")
    at = ("--url", broker, "--namespace", namespace)
    with up(*serving) as (process, ready):
        run = json.loads(stepmesh("submit", "two.yaml", "--input-json", "4", "--run-key", "k", "--json", *at))
        assert run["durability"] == ready["durability"]
        process.kill()
    Path("open").touch()
    with up(*serving, "--worker", "steps.py"):
        again = stepmesh("submit", "two.yaml", "--input-json", "4", "--run-key", "k", "--wait", "--timeout", "60", *at)
        assert json.loads(again) == {"outcome": "success", "result": 9}
        assert json.loads(stepmesh("status", run["run"], "--json", *at).splitlines()[0])["run"]["status"] == "completed"


def test_passwords_are_not_told(nats_url: str, postgres_url: str, namespace: str) -> None:
    address = postgres_url.replace("postgres@", "postgres:hunter2@")
    assert "hunter2" in address
    with up("--broker", nats_url, "--journal", address, "--namespace", namespace, "--durability", "fsync", "--data", "data"):
        checks = stepmesh("doctor", "--url", nats_url, "--journal", address, "--namespace", namespace, "--json")
    states = {check["name"]: check["state"] for check in map(json.loads, checks.splitlines())}
    assert states["postgres fsync"] == states["deployment"] == "ok"
    assert "hunter2" not in checks
    assert "hunter2" not in Path("up.log").read_text()


def test_a_durability_that_the_journal_does_not_give_is_refused(nats_url: str, namespace: str) -> None:
    arguments = ("--broker", nats_url, "--journal", "broker", "--durability", "fsync", "--namespace", namespace, "--data", "data")
    done = subprocess.run([sys.executable, "-m", "stepmesh_cli", "up", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "SM-0153 the durability fsync is declared" in done.stderr
    assert "gives process" in done.stderr


@contextmanager
def orchestrating(number: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`stepmesh orchestrator`, ready."""
    with Path(f"orchestrator{number}.log").open("w") as log:
        process = subprocess.Popen(command("orchestrator", "--json", *arguments), stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        try:
            assert process.stdout.readline(), Path(log.name).read_text()
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            process.stdout.close()


@pytest.mark.parametrize("pair", SHARED, ids=str)
async def test_orchestrators_that_share_a_journal_on_a_server(
    pair: Pair, namespace: str, postgres_url: str, request: pytest.FixtureRequest
) -> None:
    """Two of them; one is killed while runs wait, and the other one ends them."""
    broker, journal = pair.addresses(request)
    shared = ("--broker", broker, "--journal", journal, "--store", postgres_url, "--namespace", namespace, "--partitions", "4")
    flow = yaml.safe_load(FLOW)
    with orchestrating(1, *shared) as first, orchestrating(2, *shared), working("--url", broker, "--namespace", namespace):
        async with Client.connect(broker, namespace, patience_s=60) as client:
            handles = [await client.submit(flow, [number]) for number in range(8)]
            first.kill()
            Path("open").touch()
            assert [await handle.result(60) for handle in handles] == [2 * number + 1 for number in range(8)]


def test_gateway_and_worker_are_processes_of_their_own_over_kafka(kafka_url: str, postgres_url: str, namespace: str) -> None:
    Path("open").touch()
    at = ("--url", kafka_url, "--namespace", namespace)
    orchestrator = ("--broker", kafka_url, "--journal", postgres_url, "--namespace", namespace, "--data", "data")
    with up(*orchestrator), working(*at), started(command("gateway", "-p", "0", *at)) as gateway:
        there = ("--url", f"grpc://127.0.0.1:{gateway.port}", "--namespace", namespace)
        said = stepmesh("submit", "two.yaml", "--input-json", "4", "--wait", "--timeout", "60", *there)
        assert json.loads(said) == {"outcome": "success", "result": 9}
        pools = {pool["pool"]: pool for pool in map(json.loads, stepmesh("pools", "--json", *there).splitlines())}
        assert (len(pools["cpu"]["workers"]), pools["cpu"]["wanted"]) == (1, 0)


def test_topics_of_broker_and_journal_have_as_many_replicas_as_the_url_says(kafka_cluster_url: str, namespace: str) -> None:
    broker = f"{kafka_cluster_url}?replicas=2"
    serving = ("--broker", broker, "--journal", "broker", "--namespace", namespace, "--data", "data")
    with up(*serving) as (_, ready):
        assert ready["durability"] == "process", "two replicas are no majority without one of them"
        checks = stepmesh("doctor", "--url", broker, "--journal", "broker", "--namespace", namespace, "--json")
    found = {check["name"]: check["found"] for check in map(json.loads, checks.splitlines())}
    assert {found[f"kafka topic stepmesh.{namespace}.{name}"].partition(":")[0] for name in ("journal", "inbox")} == {"2 replicas"}
