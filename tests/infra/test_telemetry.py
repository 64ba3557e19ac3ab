"""Collector and dashboard: references resolve, and every metric is one that the code has."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from tests.infra.command_lines import INFRA

from stepmesh_broker.protocol.attributes import METRICS

SUFFIX = {"s": "_seconds", "By": "_bytes", "1": "_ratio", "{task}/s": "_per_second", "{run}/s": "_per_second"}
"""What the collector's Prometheus exporter adds for a unit; one in braces adds nothing."""
DASHBOARD: dict[str, Any] = json.loads((INFRA / "dashboards" / "stepmesh.json").read_text())


def exported() -> dict[str, set[str]]:
    """Names as Prometheus has them, with their labels."""
    found: dict[str, set[str]] = {}
    for metric in METRICS:
        base = metric.name.replace(".", "_") + SUFFIX.get(metric.unit, "")
        known = {label.replace(".", "_") for label in metric.by}
        if metric.kind == "histogram":
            found |= {f"{base}_{part}": known | {"le"} for part in ("bucket", "sum", "count")}
        else:
            found[f"{base}_total" if metric.kind == "counter" else base] = known
    return found


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
