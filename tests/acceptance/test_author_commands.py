"""What an author of flows types, as processes: test, validate, visualize and journal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.acceptance
GIVEN = Path(__file__).parents[1] / "conformance" / "given"
COMMAND = (sys.executable, "-m", "stepmesh_cli")
FLOW = """name: seen
description: one step that works and one that does not
steps:
  - {id: good, component: /builtin/noop, input: {$input: n}}
  - {id: bad, component: /builtin/get_blob, input: {blob_id: nope}}
  - {id: gone, component: /builtin/noop, skip: true}
output: [{$step: good}, {$step: bad}, {$step: gone}]
"""


def stepmesh(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run((*COMMAND, *arguments), capture_output=True, text=True, timeout=60, cwd=cwd, check=False)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """The data folder of a `stepmesh up` that is ready."""
    data = tmp_path / "data"
    process = subprocess.Popen(
        (*COMMAND, "up", "--data", str(data), "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), "it says when it is ready"
        yield data
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_conformance_by_the_command() -> None:
    done = stepmesh("test", str(GIVEN), "--broker", "embedded", "--journal", "sqlite", "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert (told["passed"], told["failed"]) == (24, 0)


def test_a_failing_case_and_an_empty_folder_by_exit_code(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "f.yaml").write_text("name: f\noutput: 1\ntest: {cases: [{name: a, input: 0, output: {outcome: success, result: 2}}]}\n")
    assert stepmesh("test", str(tmp_path / "empty")).returncode == 2
    failed = stepmesh("test", str(tmp_path))
    assert failed.returncode == 1
    assert "$.result: got 1, expected 2" in failed.stdout


def test_validate_and_visualize_a_file(tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    path.write_text(FLOW)
    assert stepmesh("validate", str(path)).returncode == 0
    assert stepmesh("visualize", str(path), "--output", str(tmp_path / "flow.svg")).returncode == 0
    assert ET.parse(tmp_path / "flow.svg").getroot().tag.endswith("svg")
    assert stepmesh("visualize", str(path), "--format", "mermaid").stdout.startswith("flowchart TD")
    assert "│ good │" in stepmesh("visualize", str(path)).stdout
    path.write_text(FLOW.replace("$step: bad", "$step: none"))
    assert stepmesh("validate", str(path)).returncode == 1
    assert stepmesh("visualize", str(path)).returncode == 2


def test_visualize_a_run_then_verify_and_dump_its_journal(served: Path, tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    path.write_text(FLOW)
    target = ("--data", str(served))
    submitted = stepmesh("submit", str(path), "--input-json", '{"n": 1}', *target, cwd=tmp_path)
    run = submitted.stdout.strip()
    assert "run_completed" in stepmesh("events", run, "--follow", "--json", *target).stdout
    drawn = stepmesh("visualize", "--run", run, "--json", *target, cwd=tmp_path)
    assert drawn.returncode == 0, submitted.stderr + drawn.stderr
    states = {node["label"]: node["state"] for node in json.loads(drawn.stdout)["nodes"] if node["kind"] == "step"}
    assert states == {"good": "success", "bad": "failed", "gone": "skipped"}
    both = stepmesh("visualize", str(path), "--run", run, "--format", "mermaid", *target, cwd=tmp_path)
    assert "failed" in both.stdout
    other = GIVEN / "paths.yaml"
    assert "another flow" in stepmesh("visualize", str(other), "--run", run, *target, cwd=tmp_path).stderr
    assert "SM-5003" in stepmesh("visualize", "--run", "01a20000-0000-7000-8000-000000000000", *target, cwd=tmp_path).stderr
    assert "SM-0102" in stepmesh("journal", "verify", *target).stderr


def test_the_journal_after_the_deployment_ended(tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    path.write_text(FLOW)
    data = tmp_path / "data"
    ran = stepmesh("run", str(path), "--input-json", '{"n": 7}', "--journal", f"sqlite:{data / 'journal.db'}", cwd=tmp_path)
    assert ran.returncode == 1
    verified = stepmesh("journal", "verify", "--data", str(data))
    assert verified.returncode == 0, ran.stderr + verified.stderr
    events = [
        event["event"]
        for line in stepmesh("journal", "dump", "--data", str(data)).stdout.splitlines()
        for event in json.loads(line)["events"]
    ]
    assert events[0] == "RunCreated"
    assert events[-1] == "RunEnded"
