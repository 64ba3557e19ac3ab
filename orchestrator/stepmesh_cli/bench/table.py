"""`stepmesh bench table`: the chain on each pair of broker and journal, a row each, as Markdown for people and as lines for programs.

Invariant: a row is printed as soon as it is known, and a pair that fails costs no other one its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from stepmesh_broker.errors import StepmeshError
from stepmesh_cli.addresses import shown
from stepmesh_cli.bench.measurement import described, measure
from stepmesh_cli.bench.pairs import Pair, pairs
from stepmesh_cli.bench.settings import BenchSettings
from stepmesh_cli.tables import print_json

BROKERS = ("memory", "embedded")
JOURNALS = ("memory", "sqlite", "broker")
"""What is measured when nothing is named: all that needs no server."""
_FIGURES = (
    ("steps/s", "steps_per_s"),
    ("orchestrator µs/step", "cpu_us_per_step"),
    ("raw round trips/s", "raw_round_trips_per_s"),
    ("ratio", "ratio"),
    ("raw framed steps/s", "raw_framed_steps_per_s"),
    ("framed ratio", "framed_ratio"),
    ("durability", "durability"),
)
"""Head of a column and where its figure is."""
Measure = Callable[[BenchSettings], dict[str, Any]]


def table(settings: BenchSettings, brokers: Sequence[str], journals: Sequence[str], rounds: int, *, json: bool) -> int:
    """Measure and print; returns the exit code, 1 when a pair failed."""
    found = rows(settings, pairs(brokers or BROKERS, journals or JOURNALS), lambda one: measure("chain", one, None, rounds))
    return _print_lines(found) if json else _print_markdown(found, brokers or BROKERS, journals or JOURNALS)


def rows(settings: BenchSettings, wanted: Iterable[Pair], measured: Measure) -> Iterable[dict[str, Any]]:
    """What `measured` gives, one after the other; with `left_out` or `failed`, and why, where there are no figures."""
    for pair in wanted:
        one = replace(settings, broker=pair.broker, journal=pair.journal)
        named = {"bench": "chain", "settings": described(one)}
        if pair.nonsense:
            yield {**named, "left_out": pair.nonsense}
            continue
        try:
            yield measured(one)
        except StepmeshError as problem:
            yield {**named, "failed": str(problem)}


def _print_lines(found: Iterable[dict[str, Any]]) -> int:
    failed = 0
    for row in found:
        failed |= "failed" in row
        print_json(row)
    return failed


def _print_markdown(found: Iterable[dict[str, Any]], brokers: Sequence[str], journals: Sequence[str]) -> int:
    widths = [max(len(head), *map(len, map(shown, names))) for head, names in (("broker", brokers), ("journal", journals))]
    widths += [max(len(head), 10) for head, _ in _FIGURES]
    print(line(("broker", "journal", *(head for head, _ in _FIGURES)), widths))
    print(line([*("-" * width for width in widths[:2]), *("-" * (width - 1) + ":" for width in widths[2:])], widths))
    notes: list[str] = []
    failed = 0
    for row in found:
        of = row["settings"]
        if "left_out" in row:
            notes.append(f"left out: {of['broker']} × {of['journal']}: {row['left_out']}")
            continue
        failed |= "failed" in row
        notes += [f"failed: {of['broker']} × {of['journal']}: {row['failed']}"] if "failed" in row else []
        print(line((of["broker"], of["journal"], *cells(row)), widths), flush=True)
    print("".join(f"\n{note}" for note in notes))
    return failed


def cells(row: dict[str, Any]) -> list[str]:
    """The figures of a row; a dash where there is none."""
    if "failed" in row:
        return ["failed", *["–"] * (len(_FIGURES) - 1)]
    found = [row.get(key) for _, key in _FIGURES]
    return [_cell(value["orchestrator"] if isinstance(value, dict) else value) for value in found]


def line(texts: Sequence[str], widths: Sequence[int]) -> str:
    """One line of a Markdown table: names to the left, figures to the right."""
    padded = [
        text.ljust(width) if column < 2 else text.rjust(width) for column, (text, width) in enumerate(zip(texts, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else str(value)
