"""Collector and dashboard: references resolve, and every metric is one that the code has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from tests.infra.command_lines import INFRA

from stepmesh_broker.protocol.attributes import METRICS, POOL, POOL_WANTED, Metric

SUFFIX = {
    "s": "_seconds",
    "By": "_bytes",
    "1": "_ratio",
    **dict.fromkeys(("{task}/s", "{run}/s", "{token}/s", "{cost}/s"), "_per_second"),
}
"""What the collector's Prometheus exporter adds for a unit; one in braces adds nothing."""
LEFT_OUT = {
    "stepmesh.turn.size",
    *(f"stepmesh.projector.{name}" for name in ("frames", "rows")),
    *(f"stepmesh.window.{name}" for name in ("runs", "run_latency", "run_failures", "task_latency", "task_wait", "task_failures")),
    *(f"stepmesh.window.{name}" for name in ("task_tokens", "run_tokens", "run_cost")),
}
"""What no panel shows: of the stream application its lag and its rates are there, the rest of a window is for those who ask for it."""
DASHBOARD: dict[str, Any] = json.loads((INFRA / "dashboards" / "stepmesh.json").read_text())


def exported() -> dict[str, set[str]]:
    """Names as Prometheus has them, with their labels."""
    return {name: labels for metric in METRICS for name, labels in exported_of(metric)}


def exported_of(metric: Metric) -> Iterator[tuple[str, set[str]]]:
    base = metric.name.replace(".", "_") + SUFFIX.get(metric.unit, "")
    known = {label.replace(".", "_") for label in metric.by}
    if metric.kind == "histogram":
        yield from ((f"{base}_{part}", known | {"le"}) for part in ("bucket", "sum", "count"))
    else:
        yield f"{base}_total" if metric.kind == "counter" else base, known


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_every_metric_of_the_dashboard_exists_and_has_the_labels_by_which_it_is_asked() -> None:
    known = exported()
    assert len(expressions()) > 15
    for expression in expressions():
        names = set(re.findall(r"\b(stepmesh_\w+)(?=[\[{)])", expression)) & known.keys()
        assert names, expression
        labels = set.union(*(known[name] for name in names))
        words = set(re.findall(r"\b((?:stepmesh|error)_\w+|le)\b", expression))
        assert words <= names | labels, expression


def test_a_pool_is_shown_by_the_metric_that_scalers_go_by() -> None:
    wanted = POOL_WANTED.name.replace(".", "_")
    shown = [panel for panel in DASHBOARD["panels"] if any(wanted in target["expr"] for target in panel["targets"])]
    assert len(shown) == 1
    assert f'sum by (stepmesh_pool) ({wanted}{{stepmesh_pool=~"$pool"}})' in expressions()
    (choice,) = [variable for variable in DASHBOARD["templating"]["list"] if variable["name"] == "pool"]
    assert choice["query"] == f"label_values({wanted}, stepmesh_pool)"
    assert POOL in POOL_WANTED.by


def test_every_metric_of_the_code_is_on_the_dashboard_or_left_out_on_purpose() -> None:
    shown = " ".join(expressions())
    missing = {metric.name for metric in METRICS if not any(name in shown for name, _ in exported_of(metric))}
    assert missing == LEFT_OUT


def test_a_legend_names_labels_that_its_series_have() -> None:
    for panel in DASHBOARD["panels"]:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters), panel["title"]
        for target in panel["targets"]:
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, target


def test_panels_are_apart_and_variables_are_declared() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places) == len(set(ids))
    declared = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$(?!__)\{?(\w+)", json.dumps(DASHBOARD)))
    assert used == declared


def test_the_collectors_pipelines_name_what_is_configured() -> None:
    config = yaml.safe_load((INFRA / "collector" / "config.yaml").read_text())
    for pipeline in config["service"]["pipelines"].values():
        for part in ("receivers", "processors", "exporters"):
            assert set(pipeline[part]) <= config[part].keys()
    assert config["receivers"]["otlp"]["protocols"]["http"]["endpoint"].endswith(":4318")  # where docs/telemetry.md sends it
