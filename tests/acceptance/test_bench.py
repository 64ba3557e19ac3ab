"""`stepmesh bench` as a user runs it, small: every scenario ends, and the last line is one object with its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.pairs import Pair

from stepmesh_cli.addresses import shown

STEPMESH = str(Path(sys.executable).parent / "stepmesh")
RAW = {"raw_round_trips_per_s", "ratio", "raw_framed_steps_per_s", "framed_ratio", "traffic"}
"""What the chain says of the broker's plain client."""


def bench(*options: str) -> dict[str, Any]:
    done = subprocess.run([STEPMESH, "bench", *options, "--json"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("scenario", "rate", "more"),
    [
        ("chain", "steps_per_s", {"cpu_us_per_step", "peak_rss_mb", "durability", "machine", *RAW}),
        ("single", "runs_per_s", {"p50_ms", "p99_ms", "cpu_us_per_step"}),
        ("fanout", "items_per_s", {"p50_ms", "p99_ms"}),
        ("latency", "runs_per_s", {"p50_ms", "p99_ms"}),
        ("stream", "tasks_per_s", {"batches_cpu_us_per_task", "singles_cpu_us_per_task", "unary_tasks_per_s"}),
        ("recovery", "runs_per_s", {"recovered", "seconds"}),
        ("memory", "runs_per_s", {"bytes_per_run"}),
        ("sleep", "runs_per_s", {"bytes_per_run", "recovery_seconds", "wake_seconds", "longest_stall_ms"}),
    ],
)
def test_every_scenario_reports_its_figures(scenario: str, rate: str, more: set[str]) -> None:
    found = bench(scenario, "--scale", "0.02")
    assert found["bench"] == scenario
    assert found[rate] > 0
    assert more <= set(found)
    assert found["durability"] == "fsync"
    if scenario == "stream":
        assert min(found["batches_times_less_cpu"].values()) >= 5
    if scenario == "recovery":
        assert found["recovered"] == found["runs"]


@pytest.mark.acceptance
def test_a_function_that_waits_is_small_on_disk_and_nothing_but_an_entry_in_memory() -> None:
    found = bench("functions", "--scale", "0.02", "--runs", "4000")
    assert found["waiting"] == 4_000
    assert 0 < found["bytes_on_disk_each"]["all"] < 2_000
    assert found["objects_each"] < 5, "its id, and where its image is"
    assert {"orchestrator", "functions_worker"} <= set(found["bytes_in_memory_each"])


@pytest.mark.acceptance
def test_two_settings_are_measured_in_turn() -> None:
    found = bench("chain", "--scale", "0.02", "--broker", "memory", "--journal", "memory", "--versus", "--workers 2", "--rounds", "2")
    assert found["durability"] == "process"
    assert not RAW & set(found), "no server carries messages"
    assert found["versus"]["settings"]["workers"] == 2
    assert len(found["ratios"]) == 2
    assert all(ratio > 0 for ratio in found["ratios"])


@pytest.mark.acceptance
def test_a_setting_that_is_not_understood_is_refused() -> None:
    done = subprocess.run(
        [STEPMESH, "bench", "chain", "--versus", "faster please"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "--versus" in done.stderr


@pytest.mark.acceptance
@pytest.mark.parametrize(("broker", "journal"), [("nats", "postgres"), ("kafka", "broker")])
def test_servers_are_measured_in_a_namespace_of_their_own(broker: str, journal: str, request: pytest.FixtureRequest) -> None:
    where, kept = Pair(broker, journal).addresses(request)
    found = bench("chain", "--scale", "0.01", "--broker", where, "--journal", kept)
    assert found["steps_per_s"] > 0
    assert found["settings"]["journal"] == shown(kept)
    assert found["durability"] == ("process" if journal == "broker" else "fsync")
    assert found["ratio"] == pytest.approx(found["steps_per_s"] / found["raw_round_trips_per_s"], abs=0.01)
    assert found["framed_ratio"] == pytest.approx(found["steps_per_s"] / found["raw_framed_steps_per_s"], abs=0.001)
    assert found["traffic"]["task frames"] >= found["steps"] / 1024
    recovered = bench("recovery", "--scale", "0.01", "--broker", where, "--journal", kept)
    assert recovered["recovered"] == recovered["runs"] == 100, "and nothing of an earlier one"


@pytest.mark.acceptance
def test_a_table_has_a_row_for_each_pair(kafka_url: str) -> None:
    options = ("--scale", "0.01", "--broker", "memory", "--broker", "embedded", "--broker", kafka_url, "--journal", "broker")
    done = subprocess.run([STEPMESH, "bench", "table", *options], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("|")][2:]
    assert [row[:2] for row in rows] == [["embedded", "broker"], [shown(kafka_url), "broker"]]
    assert all(float(cell.replace(",", "")) > 0 for row in rows for cell in row[2:-1])
    assert [row[-1] for row in rows] == ["process", "process"]
    assert "left out: memory × broker" in done.stdout


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("options", "word"),
    [(("chain", "--broker", "memory", "--broker", "embedded"), "bench table"), (("table", "--versus", "--workers 2"), "--versus")],
)
def test_what_only_a_table_or_no_table_has_is_refused(options: tuple[str, ...], word: str) -> None:
    done = subprocess.run([STEPMESH, "bench", *options], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert word in done.stderr
