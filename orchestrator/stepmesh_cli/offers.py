"""`stepmesh components`: what a deployment offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from stepmesh.client import Client
from stepmesh.errors import FlowNotFound
from stepmesh_broker.protocol.api import ComponentEntry, Components, FlowData, GetFlow, ListComponents
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.errors import CommandError
from stepmesh_cli.reference import Offer
from stepmesh_cli.reference import markdown as markdown_page
from stepmesh_cli.reporting import say
from stepmesh_cli.schema_rows import rows_of
from stepmesh_cli.tables import print_json, print_table, raw

Form = Literal["markdown", "json", "schemas", "table"]
LATELY = 1_000
"""Runs whose flows are in a reference page."""


def components(
    below: str | None = None,
    /,
    *,
    pool: str | None = None,
    schemas: bool = False,
    markdown: bool = False,
    target: Target = HERE,
    json: bool = False,
) -> int:
    """List the components that workers offer, by the path that a flow writes. Waits for no worker.

    Parameters
    ----------
    below
        Only paths that begin with this one.
    pool
        Only components of this pool.
    schemas
        Show the fields of inputs and outputs.
    markdown
        A reference page of all this, and of the flows that ran lately.
    json
        One JSON object per line, with schemas.
    """
    if markdown and (json or schemas):
        raise CommandError("--markdown is a form of its own", hint="leave out --json and --schemas")
    how: Form = "markdown" if markdown else "json" if json else "schemas" if schemas else "table"
    return run_to_end(_components(target, _Wanted(below or "", pool, how)))


@dataclass(frozen=True, slots=True)
class _Wanted:
    below: str
    pool: str | None
    form: Form

    def has(self, entry: ComponentEntry) -> bool:
        return entry.path.startswith(self.below) and self.pool in (None, entry.pool)


async def _components(target: Target, wanted: _Wanted) -> int:
    async with connected(target) as client:
        answer = await client.requests.ask(ListComponents(), Components)
        found = [entry for entry in answer.components if wanted.has(entry)]
        silent = [pool for pool in answer.silent if wanted.pool in (None, pool)]
        if wanted.form == "markdown":
            flows = {} if wanted.below or wanted.pool else await _flows(client)
            print(markdown_page(Offer(found, silent, flows)), end="")
            return exits.OK
    if wanted.form == "json":
        for entry in found:
            print_json(_component(entry))
    elif wanted.form == "schemas":
        _print_schemas(found)
    else:
        rows = ((one.path, one.pool, one.workers, _first_line(one.component.description)) for one in found)
        print_table(("path", "pool", "workers", "description"), rows)
    for pool in silent:
        say(f"pool {pool}: no worker was heard, so what it offers is not known")
    return exits.OK


def _print_schemas(found: Sequence[ComponentEntry]) -> None:
    for entry in found:
        print(f"{entry.path}  {_first_line(entry.component.description)}".rstrip())
        for title, text in (("input", entry.component.input_schema), ("output", entry.component.output_schema)):
            for row in rows_of(None if text is None else msgspec.json.decode(text)):
                marks = ("required" if row.required and row.name else "", f"default {row.default}" if row.default else "", row.description)
                print(f"  {title}{'.' if row.name else ''}{row.name}: {row.type}{''.join(f'  {mark}' for mark in marks if mark)}")


async def _flows(client: Client) -> dict[str, dict[str, Any]]:
    """Documents of the flows that ran lately and are still stored."""
    runs = await client.list_runs(roots_only=True, limit=LATELY)
    found: dict[str, dict[str, Any]] = {}
    for flow in dict.fromkeys(run.flow for run in runs):
        try:
            found[flow] = msgspec.json.decode((await client.requests.ask(GetFlow(flow), FlowData)).document, type=dict[str, Any])
        except FlowNotFound:
            continue  # deleted meanwhile
    return found


def _component(entry: ComponentEntry) -> dict[str, Any]:
    component = entry.component
    return {
        "path": entry.path,
        "pool": entry.pool,
        "workers": entry.workers,
        "component": component.path,
        "description": component.description,
        "input_schema": raw(component.input_schema),
        "output_schema": raw(component.output_schema),
    }


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
