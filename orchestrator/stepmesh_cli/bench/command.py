"""`stepmesh bench`: measure, in a table for people, and as one object per line for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from stepmesh_cli.bench.measurement import SCENARIOS, measure
from stepmesh_cli.bench.settings import BenchSettings
from stepmesh_cli.bench.table import table
from stepmesh_cli.errors import CommandError
from stepmesh_cli.tables import print_json


def bench(
    scenario: Literal[
        "chain", "single", "fanout", "latency", "stream", "recovery", "memory", "sleep", "functions", "all", "table"
    ] = "chain",
    /,
    *,
    broker: tuple[str, ...] = (),
    journal: tuple[str, ...] = (),
    workers: int = 1,
    scale: float = 1.0,
    runs: int | None = None,
    versus: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    rounds: int = 1,
    profile: bool = False,
    data: Path | None = None,
    json: Annotated[bool, Parameter(help="One JSON object per scenario; the last line is the last one.")] = False,
) -> int:
    """Measure this machine: throughput, latency, memory and recovery of the whole path.

    Example: stepmesh bench chain --workers 2
    Example: stepmesh bench chain --versus "--journal memory" --rounds 3
    Example: stepmesh bench table --broker embedded --broker kafka://host:9092 --journal sqlite --journal postgres://host/database

    Parameters
    ----------
    scenario
        chain: ten no-op steps in a row. single: one-step runs, 64 at once. fanout: map over 1,000 items. latency: one-step runs,
        one by one. stream: CPU time of a worker and its gateway, by WorkerService and by stepflow.v1's unary calls.
        memory: bytes per live run. recovery: seconds until 10,000 live runs are back.
        sleep: 100,000 sleeping runs: bytes of each in memory and on disk, seconds until they are back, and until 10,000 of them are awake.
        functions: durable functions of a hundred local steps each, what a replay costs, and what a function weighs that sleeps.
        table: chain on each broker with each journal, as Markdown; pairs that make no sense are named and left out.
    broker
        embedded (the default), memory (workers in this process), nats://… or kafka://… For `table`, any number of them.
    journal
        sqlite (the default; fsync for every turn), memory, broker, postgres://…, redis://…, nats://… or kafka://… For `table`, any number
        of them.
    workers
        Worker processes.
    scale
        Multiplies the amount of work.
    runs
        How many runs sleep, or functions wait.
    versus
        Options of a second setting, measured in turn with the first: the ratio of each pair is what to quote.
    rounds
        How often each setting is measured.
    profile
        Print where the orchestrator's time went (slows it down about four times).
    data
        Folder for broker, journal and store; default is a temporary one. On servers each measurement has a namespace of its own,
        `bench-…`, which stays there.
    json
        One JSON object per scenario; the last line is the last one.
    """
    settings = BenchSettings(workers=workers, scale=scale, data=data, profile=profile, runs=runs)
    if scenario == "table":
        if versus is not None:
            raise CommandError("a table has no --versus", hint="name all brokers and journals with --broker and --journal")
        return table(settings, broker, journal, rounds, json=json)
    settings = replace(settings, broker=_one("broker", broker, settings.broker), journal=_one("journal", journal, settings.journal))
    other = None if versus is None else _changed(settings, versus)
    for name in SCENARIOS if scenario == "all" else (scenario,):
        found = measure(name, settings, other, rounds)
        if json:
            print_json(found)
        else:
            _show(found)
    return 0


def _one(option: str, given: Sequence[str], otherwise: str) -> str:
    if len(given) > 1:
        raise CommandError(f"{len(given)} times --{option}, where one is measured", hint="`stepmesh bench table` measures each pair")
    return given[0] if given else otherwise


def _changed(settings: BenchSettings, options: str) -> BenchSettings:
    words = options.split()
    names = [word.removeprefix("--") for word in words[::2]]
    if len(words) % 2 or not set(names) <= {"broker", "journal", "workers"}:
        raise CommandError(f"--versus {options!r} is not understood", hint='like --versus "--journal memory --workers 2"')
    changes: dict[str, Any] = dict(zip(names, words[1::2], strict=True))
    if "workers" in changes:
        changes["workers"] = int(changes["workers"])
    return replace(settings, **changes)


def _show(found: dict[str, Any]) -> None:
    print(f"{found['bench']}  {' '.join(f'{name}={value}' for name, value in found['settings'].items())}")
    for name, value in found.items():
        if name in ("bench", "settings", "machine"):
            continue
        shown = ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else value
        print(f"  {name:<22} {shown:,}" if isinstance(shown, int) else f"  {name:<22} {shown}")
