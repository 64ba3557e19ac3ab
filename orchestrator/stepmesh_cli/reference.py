"""What a deployment offers as a Markdown page: components by pool with their schemas as tables, and the flows that ran. Pure.

Invariant: whatever a worker calls its things, the page stays one page: text of others never opens a heading, a table or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import msgspec

from stepmesh_broker.protocol.api import ComponentEntry
from stepmesh_cli.schema_rows import Row, rows_of

_SIGNS = re.compile(r"([\\`*_\[\]<>|#])")


@dataclass(frozen=True, slots=True)
class Offer:
    """What is told. `silent`: pools of which no worker was heard. `flows`: id → document."""

    components: Sequence[ComponentEntry]
    silent: Sequence[str] = ()
    flows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])


def markdown(offer: Offer) -> str:
    """The page, ending with a newline."""
    return "\n".join(_page(offer)).rstrip("\n") + "\n"


def _page(offer: Offer) -> Iterator[str]:
    yield from ("# Components", "")
    by_pool = sorted(offer.components, key=lambda one: (one.pool, one.path))
    if not by_pool:
        yield from ("No worker offers a component.", "")
    for pool, entries in groupby(by_pool, key=lambda one: one.pool):
        listed = list(entries)
        workers = max(one.workers for one in listed)
        yield from (f"## Pool {_code(pool)}", "", f"{workers} {'worker' if workers == 1 else 'workers'} now.", "")
        for entry in listed:
            yield from _component(entry)
    if offer.silent:
        yield from ("## Pools without a worker", "", "Configured, or with tasks that wait; what they offer is not known.", "")
        yield from (f"- {_code(pool)}" for pool in sorted(offer.silent))
        yield ""
    if offer.flows:
        yield from ("# Flows", "")
        for flow, document in sorted(offer.flows.items(), key=lambda one: (str(one[1].get("name", "")), one[0])):
            yield from _flow(flow, document)


def _component(entry: ComponentEntry) -> Iterator[str]:
    told = entry.component
    yield from (f"### {_code(entry.path)}", "")
    yield from _prose(told.description)
    yield from _schema("Input", told.input_schema)
    yield from _schema("Output", told.output_schema)


def _flow(flow: str, document: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"## {_code(str(document.get('name') or flow[:12]))}", "")
    yield from _prose(str(document.get("description") or ""))
    yield from (f"Id {_code(flow)}.", "")
    steps = document.get("steps")
    called = (
        [str(step["component"]) for step in steps if isinstance(step, Mapping) and "component" in step] if isinstance(steps, list) else []
    )
    if called:
        yield from (f"Calls {', '.join(_code(one) for one in dict.fromkeys(called))}.", "")
    schemas = document.get("schemas")
    parts = schemas.get("properties") if isinstance(schemas, Mapping) else None
    for title, key in (("Input", "input"), ("Output", "output"), ("Variables", "variables")):
        if isinstance(parts, Mapping) and key in parts:
            yield from _table(title, rows_of(parts[key]))


def _schema(title: str, text: bytes | None) -> Iterator[str]:
    if text is None:
        yield from (f"{title}: any", "")
        return
    try:
        schema = msgspec.json.decode(text)
    except msgspec.DecodeError:
        yield from (f"{title}: a schema that is not JSON", "")
        return
    yield from _table(title, rows_of(schema))


def _table(title: str, rows: Sequence[Row]) -> Iterator[str]:
    if len(rows) == 1 and not rows[0].name:
        row = rows[0]
        told = f": {_cell(row.description)}" if row.description else ""
        yield from (f"{title}: {_cell(row.type)}{told}", "")
        return
    yield from (f"{title}:", "", "| field | type | required | default | description |", "|---|---|---|---|---|")
    for row in rows:
        cells = (_code(row.name), _cell(row.type), "yes" if row.required else "", _code(row.default), _cell(row.description))
        yield f"| {' | '.join(cells)} |"
    yield ""


def _prose(text: str) -> Iterator[str]:
    """Paragraphs of others, as text."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph:
            yield from (_cell(paragraph), "")


def _cell(text: str) -> str:
    """One line that Markdown shows as it is; code spans stay."""
    parts = re.split(r"(`[^`|]+`)", " ".join(text.split()))
    return "".join(part if index % 2 else _SIGNS.sub(r"\\\1", part) for index, part in enumerate(parts))


def _code(text: str) -> str:
    """A code span, whatever is in it; empty for nothing."""
    line = " ".join(text.split()).replace("|", "\\|")
    if not line:
        return ""
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"
