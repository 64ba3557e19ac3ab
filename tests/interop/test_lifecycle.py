"""The real worker's life: it blocks, dies, is stopped, and outlives the server."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.interop.deployment import HERE, CallFailed, Driver, Server

NAP = {"id": "nap", "component": "/python/nap", "input": {"mark": "nap", "seconds": {"$input": "$.seconds"}}}


@contextmanager
def driver(python: Path, server: Server) -> Iterator[Driver]:
    made = Driver(python, server.address)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def worker(python: Path, server: Server, *, slots: int = 4, queue: str = "python") -> Iterator[subprocess.Popen[bytes]]:
    """A worker that nobody but this test looks after."""
    environment = {
        **os.environ,
        "STEPFLOW_TASKS_URL": server.address,
        "STEPFLOW_BLOB_URL": server.address,
        "STEPFLOW_QUEUE_NAME": queue,
        "STEPFLOW_MAX_CONCURRENT": str(slots),
        "INTEROP_MARKS": str(server.marks),
    }
    with (
        (server.folder / "worker.log").open("ab") as log,
        subprocess.Popen([str(python), str(HERE / "worker.py")], env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def without_command(config: dict[str, Any]) -> dict[str, Any]:
    """The same deployment, whose workers come by themselves."""
    return {**config, "plugins": {**config["plugins"], "python": {"type": "grpc", "queueName": "python"}}}


def test_a_signal_ends_server_and_worker_in_order(tmp_path: Path, config: dict[str, Any], stepflow_python: Path) -> None:
    with Server(tmp_path, config) as server:
        with driver(stepflow_python, server) as client:
            assert client.one("/python/same", {"n": 1})["output"] == {"n": 1}
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()


def test_a_component_that_blocks_for_long_runs_once(tmp_path: Path, config: dict[str, Any], stepflow_python: Path) -> None:
    with Server(tmp_path, config) as server, driver(stepflow_python, server) as client:
        assert client.one("/python/block", {"mark": "blocked", "seconds": 25})["output"] == {"blocked": 25}
        assert len(server.marked("blocked")) == 1


def test_a_worker_that_dies_is_started_again_and_its_task_too(tmp_path: Path, config: dict[str, Any], stepflow_python: Path) -> None:
    with Server(tmp_path, config) as server, driver(stepflow_python, server) as client:
        assert client.one("/python/die", {"mark": "died"})["output"] == {"times": 2}
        assert len(server.marked("died")) == 2


def test_a_pool_without_a_worker_delays_nothing_else(tmp_path: Path, config: dict[str, Any], stepflow_python: Path) -> None:
    plugins = {**config["plugins"], "ghost": {"type": "grpc", "queueName": "ghost"}}
    routes = {**config["routes"], "/ghost": [{"plugin": "ghost"}]}
    with Server(tmp_path, {**config, "plugins": plugins, "routes": routes}) as server, driver(stepflow_python, server) as client:
        flow = client.store({"id": "boo", "component": "/ghost/boo", "input": {}})
        waits = client("submit", flow_id=flow, input_data={})["summary"]["run_id"]
        assert client.one("/python/same", {"n": 1})["output"] == {"n": 1}
        listed = client("list_components")
        assert "/python/same" in {one["path"] for one in listed["components"]}
        assert [one["plugin"] for one in listed["failed_plugins"]] == ["ghost"]
        assert client("get_run", run_id=waits)["summary"]["status"] == "EXECUTION_STATUS_RUNNING"


def test_a_queue_that_nobody_configured(tmp_path: Path, without_command: dict[str, Any], stepflow_python: Path) -> None:
    with Server(tmp_path, without_command) as server, driver(stepflow_python, server) as client:
        with pytest.raises(CallFailed, match="python") as refused:
            client("rpc", service="tasks", method="PullTasks", request={"queue_name": "pyhton", "worker_id": "w"})
        assert refused.value.status == "NOT_FOUND"


def test_a_result_outlives_the_server(tmp_path: Path, without_command: dict[str, Any], stepflow_python: Path) -> None:
    kept = {**without_command, "storageConfig": {"type": "sqlite", "databaseUrl": f"sqlite:{tmp_path / 'runs.db'}"}}
    with Server(tmp_path, kept) as server, worker(stepflow_python, server):
        with driver(stepflow_python, server) as client:
            flow = client.store(NAP)
            run = client("submit", flow_id=flow, input_data={"seconds": 4})["summary"]["run_id"]
            server.until_marked("nap")
        server.kill()
        server.start()
        with driver(stepflow_python, server) as client:
            ended = client("get_run", run_id=run, wait=True, timeout=50)
        assert ended["summary"]["status"] == "EXECUTION_STATUS_COMPLETED"
        assert ended["steps"][0]["output"] == {"slept": 4}
        assert len(server.marked("nap")) == 1


def test_a_drained_worker_finishes_and_another_goes_on(tmp_path: Path, without_command: dict[str, Any], stepflow_python: Path) -> None:
    with Server(tmp_path, without_command) as server, driver(stepflow_python, server) as client:
        flow = client.store(NAP)
        with worker(stepflow_python, server, slots=1) as first:
            run = client("submit", flow_id=flow, input_data=[{"seconds": 2}] * 3)["summary"]["run_id"]
            server.until_marked("nap")
            first.send_signal(signal.SIGTERM)
            assert first.wait(30) == 0
        with worker(stepflow_python, server):
            ended = client("get_run", run_id=run, wait=True, timeout=50)
        assert ended["summary"]["items"]["completed"] == 3
        assert len(server.marked("nap")) <= 4


def test_workers_share_a_queue(tmp_path: Path, without_command: dict[str, Any], stepflow_python: Path) -> None:
    with (
        Server(tmp_path, without_command) as server,
        driver(stepflow_python, server) as client,
        worker(stepflow_python, server, slots=1),
        worker(stepflow_python, server, slots=1),
    ):
        client.one("/python/same", {})
        flow = client.store(NAP)
        results = client.run(flow, *([{"seconds": 1}] * 6))
        assert [one["output"] for one in results] == [{"slept": 1}] * 6
        stamps = client.rpc("runs", "ListRuns", limit=1)["runs"][0]
        assert stamps["items"]["completed"] == 6
