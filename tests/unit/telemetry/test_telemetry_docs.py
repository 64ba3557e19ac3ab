"""docs/telemetry.md shows the tables of the mapping file, and nothing else names attributes."""

from __future__ import annotations

import re
from pathlib import Path

from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv.attributes import error_attributes, service_attributes

from stepmesh_broker.protocol import attributes as names

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "telemetry.md").read_text()
SOURCES = [
    path
    for folder in ("broker", "sdk", "orchestrator", "components")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "attributes.py"
]


def rows(heading: str) -> list[str]:
    """Rows of the table below a heading, without its head."""
    section = DOCS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| `")]


def test_the_table_of_attributes_is_the_mapping_file() -> None:
    assert rows("Attributes") == [f"| `{name}` | {meaning} |" for name, meaning in names.ATTRIBUTES.items()]


def test_the_table_of_metrics_is_the_mapping_file() -> None:
    assert rows("Metrics") == [
        f"| `{metric.name}` | {metric.kind} | `{metric.unit}` | {', '.join(f'`{name}`' for name in metric.by)} | {metric.meaning} |"
        for metric in names.METRICS
    ]


def test_every_constant_is_explained_once() -> None:
    constants = [value for name, value in vars(names).items() if name.isupper() and isinstance(value, str) and "." in value]
    assert sorted(constants) == sorted(names.ATTRIBUTES)
    metrics = [value for value in vars(names).values() if isinstance(value, names.Metric)]
    assert metrics == list(names.METRICS)
    assert {name for metric in metrics for name in metric.by} <= set(names.ATTRIBUTES)


def test_names_of_the_conventions_are_theirs() -> None:
    known = {
        value
        for module in (messaging_attributes, error_attributes, service_attributes)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    } | {"service.instance.id"}
    assert {name for name in names.ATTRIBUTES if not name.startswith("stepmesh.")} <= known


def test_no_other_file_spells_a_name() -> None:
    spelled = re.compile("|".join(f"[\"']{re.escape(name)}[\"']" for name in (*names.ATTRIBUTES, *(one.name for one in names.METRICS))))
    assert [path.name for path in SOURCES if spelled.search(re.sub(r"getLogger\(.*?\)", "", path.read_text()))] == []
