"""The table of the benchmark: rows, cells, what is left out and what failed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_cli.bench import table as page
from stepmesh_cli.bench.pairs import pairs
from stepmesh_cli.bench.settings import BenchSettings

FIGURES = {
    "steps_per_s": 94_343, "cpu_us_per_step": {"orchestrator": 8.53, "worker": 4.4}, "raw_round_trips_per_s": 159_587, "ratio": 0.59,
    "raw_framed_steps_per_s": 380_393, "framed_ratio": 0.248, "durability": "fsync",
}  # fmt: skip


def measured(settings: BenchSettings) -> dict[str, Any]:
    if settings.broker == "kafka://h:9092":
        raise BrokerUnavailable("no connection to h:9092", hint="is Kafka up?")
    return {"bench": "chain", "settings": {"broker": settings.broker, "journal": settings.journal}, **FIGURES}


def rows_of(brokers: list[str], journals: list[str]) -> list[dict[str, Any]]:
    return list(page.rows(BenchSettings(scale=0.5), pairs(brokers, journals), measured))


def test_each_pair_is_measured_left_out_or_failed() -> None:
    found = rows_of(["memory", "kafka://user:secret@h:9092", "kafka://h:9092"], ["sqlite", "broker"])
    assert [next(key for key in ("steps_per_s", "left_out", "failed") if key in row) for row in found] == [
        "steps_per_s", "left_out", "steps_per_s", "steps_per_s", "failed", "failed",
    ]  # fmt: skip
    assert found[1]["settings"] == {"broker": "memory", "journal": "broker", "workers": 1, "scale": 0.5}
    assert found[4]["failed"] == "SM-3001 no connection to h:9092 (is Kafka up?)"


def test_a_defect_is_no_row() -> None:
    def broken(_: BenchSettings) -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(page.rows(BenchSettings(), pairs(["memory"], ["sqlite"]), broken))


def test_cells_are_figures_with_a_dash_where_there_is_none() -> None:
    assert page.cells(FIGURES) == ["94,343", "8.53", "159,587", "0.59", "380,393", "0.248", "fsync"]
    without = {name: FIGURES[name] for name in ("steps_per_s", "cpu_us_per_step", "durability")}
    assert page.cells(without) == ["94,343", "8.53", "–", "–", "–", "–", "fsync"]
    assert page.cells({"failed": "why"}) == ["failed", "–", "–", "–", "–", "–", "–"]


def table(monkeypatch: pytest.MonkeyPatch, *, json: bool) -> int:
    monkeypatch.setattr(page, "measure", lambda _name, settings, _other, _rounds: measured(settings))
    return page.table(BenchSettings(), ["memory", "kafka://h:9092"], ["sqlite", "broker"], 1, json=json)


def test_markdown_has_aligned_columns_and_notes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert table(monkeypatch, json=False) == 1
    lines = capsys.readouterr().out.splitlines()
    rows = [one for one in lines if one.startswith("|")]
    assert [[cell.strip() for cell in row.strip("|").split("|")][:3] for row in rows[2:]] == [
        ["memory", "sqlite", "94,343"], ["kafka://h:9092", "sqlite", "failed"], ["kafka://h:9092", "broker", "failed"],
    ]  # fmt: skip
    assert len({len(row) for row in rows}) == 1
    assert "left out: memory × broker: a broker in memory keeps nothing" in lines
    assert sum(one.startswith("failed: kafka://h:9092 × ") for one in lines) == 2


def test_json_is_a_line_for_each_pair(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert table(monkeypatch, json=True) == 1
    lines = [msgspec.json.decode(one) for one in capsysbinary.readouterr().out.splitlines()]
    assert [one["settings"]["broker"] for one in lines] == ["memory", "memory", "kafka://h:9092", "kafka://h:9092"]
    assert lines[0]["ratio"] == 0.59


def test_nothing_failed_is_nothing_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(page, "measure", lambda _name, settings, _other, _rounds: measured(settings))
    assert page.table(BenchSettings(), [], [], 1, json=False) == 0
    assert capsys.readouterr().out.count("94,343") == len(page.BROKERS) * len(page.JOURNALS) - 1
