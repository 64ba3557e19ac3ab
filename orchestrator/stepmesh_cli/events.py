"""`stepmesh events`: what happened in a run, from the journal."""

from __future__ import annotations

from typing import Any

import msgspec

from stepmesh_broker.protocol.api import RunEvent
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.tables import moment, print_json, raw

SHOWN = 200
"""Characters of an event's data on a line for people."""


def events(run: str, /, *, follow: bool = False, after: int = 0, target: Target = HERE, json: bool = False) -> int:
    """Show what happened in a run and its sub-runs.

    Parameters
    ----------
    run
        Id of the run.
    follow
        Go on until the run ends.
    after
        Only events after this position.
    json
        One JSON object per line.
    """
    return run_to_end(_events(target, run, follow, after, json))


async def _events(target: Target, run: str, follow: bool, after: int, as_json: bool) -> int:
    async with connected(target) as client:
        async for event in client.events(run, follow, after):
            if as_json:
                print_json(_plain(event))
            else:
                print(_line(event, run), flush=True)
    return exits.OK


def _plain(event: RunEvent) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.structs.asdict(event)
    return {**plain, "data": raw(event.data)}


def _line(event: RunEvent, run: str) -> str:
    where = "" if event.item is None else f"item {event.item}"
    child = "" if event.run == run else f"in {event.run}"
    data = event.data.decode(errors="replace")
    shown = data if len(data) <= SHOWN else f"{data[:SHOWN]}…"
    parts = (moment(event.at_ms), event.kind.ljust(15), where, event.step_id or "", child, shown if shown != "{}" else "")
    return "  ".join(part for part in parts if part)
