"""The real stepflow-py 0.13.0, its worker and its client, against `stepmesh server`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.environments import python_with
from tests.interop.deployment import HERE, Driver, Server


@pytest.fixture(scope="session")
def stepflow_python() -> Path:
    """The interpreter of an environment with the released package and nothing of ours."""
    return python_with("stepflow-py-0.13.0", "stepflow-py==0.13.0", "jsonschema")


@pytest.fixture(scope="session")
def config(stepflow_python: Path) -> dict[str, Any]:
    """A Stepflow configuration whose plugin starts the real worker."""
    python = {"type": "grpc", "command": str(stepflow_python), "args": [str(HERE / "worker.py")], "queueName": "python"}
    return {
        "plugins": {"builtin": {"type": "builtin"}, "python": python},
        "routes": {"/python": [{"plugin": "python"}], "/builtin": [{"plugin": "builtin"}]},
        "storageConfig": {"type": "inMemory"},
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Iterator[Server]:
    """One server with one worker for a whole module."""
    with Server(tmp_path_factory.mktemp("server"), config) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server, stepflow_python: Path) -> Iterator[Driver]:
    """The real client, connected."""
    driver = Driver(stepflow_python, server.address)
    yield driver
    driver.close()
