"""A run goes to another version of its code from the command line, alone and with others, over worker processes of both; it keeps it when
all are killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.test_cli_asking import refused
from tests.acceptance.test_cli_up import objects, running, stepmesh

pytestmark = pytest.mark.acceptance

BUILD = """
from stepmesh import App, wf

app = App("orders")


@app.workflow(version={version})
async def deliver(order: str) -> str:
    await wf.wait_for_event("go", order)
    return await wf.run("ship", lambda: "by {version}")


worker = app.worker()
"""
FLOW = {
    "name": "deliver",
    "steps": [{"id": "it", "component": "/orders/deliver", "input": {"$input": "$"}}],
    "output": {"$step": "it"},
}
NAP = {"steps": [{"id": "nap", "component": "/builtin/sleep", "input": {"duration": "1h"}}], "output": {"$step": "nap"}}
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    for version in (1, 2):
        Path(f"build{version}.py").write_text(BUILD.format(version=version))
    Path("nap.json").write_text(json.dumps(NAP))
    Path("deliver.json").write_text(json.dumps(FLOW))


def until(holds: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < ends, "it never came"


def why(run: str) -> str:
    return " ".join(objects("explain", run)[0]["causes"])


def versions() -> set[str]:
    return {version for worker in objects("workers") for version in worker["functions"].values()}


def submit(order: str) -> str:
    run = stepmesh("submit", "deliver.json", "--input-json", json.dumps(order)).strip()
    until(lambda: "waits for" in why(run))
    return run


def test_runs_go_to_the_version_that_is_named() -> None:
    with running("--worker", "build1.py") as up:
        runs = [submit(order) for order in "abc"]
        assert all("it belongs to build 1+" in why(run) for run in runs)
        assert "SM-1095" in (told := refused("resume", runs[0], "--version", "2"))
        assert "of /deliver of pool orders: 1+" in told
        assert "SM-1098" in refused("resume", runs[0], "--version", "")
        assert "SM-1096" in refused("resume", stepmesh("submit", "nap.json").strip(), "--version", "1")
        up.process.kill()
        up.process.wait(60)
    with running("--worker", "build1.py", "--worker", "build2.py") as up:
        until(lambda: len(versions()) == 2)
        (second,) = [version for version in versions() if version.startswith("2+")]
        assert stepmesh("resume", runs[0]) == f"run {runs[0]}: was not paused\n"
        assert stepmesh("resume", runs[0], "--version", second) == f"run {runs[0]}: goes on\n"
        until(lambda: f"waits for r/go (event, build1.py:9); it belongs to build {second}" in why(runs[0]))
        stepmesh("runs", "resume", "--version", "2", code=2)
        assert objects("runs", "resume", "--flow", "deliver", "--status", "running", "--version", "2", "--yes") == [
            {"run": run, "done": True, "code": "", "message": "", "new": None} for run in reversed(runs)
        ]
        assert objects("resume", runs[2], "--version", "1") == [{"run": runs[2], "status": "running"}]
        up.process.kill()
        up.process.wait(60)
    with running("--worker", "build1.py", "--worker", "build2.py"):
        for order in "abc":
            stepmesh("event", "send", "go", "--key", order)
        for run, version in zip(runs, "221", strict=True):
            stepmesh("events", run, "--follow")
            assert objects("status", run)[0]["steps"][0]["output"] == f"by {version}"
