"""`stepmesh stats`: what a projector counted lately, by pool, flow or namespace."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from cyclopts import Parameter

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.subjects import checked_name
from stepmesh_cli import exits
from stepmesh_cli.addresses import POSTGRES, scheme_of, shown
from stepmesh_cli.connection import run_to_end
from stepmesh_cli.errors import CommandError
from stepmesh_cli.projector import missing
from stepmesh_cli.tables import print_json, print_table

if TYPE_CHECKING:
    from stepmesh_projector.summary import Summary

_SECONDS = {"s": 1, "m": 60, "h": 3_600}
_TASKS = ("dispatched", "ok", "failed", "retried", "p50", "p95", "p99 ms", "wait p95 ms", "tokens", "cost")
_RUNS = ("started", "completed", "failed", "cancelled", "p50", "p95", "p99 ms", "tasks", "tokens", "cost")


def stats(
    *,
    store: Annotated[str, Parameter(env_var="STEPMESH_STORE")],
    namespace: Annotated[str, Parameter(env_var="STEPMESH_NAMESPACE")] = "default",
    by: Literal["pool", "flow", "namespace"] = "pool",
    last: str = "10m",
    json: bool = False,
) -> int:
    """Show what ended lately, how long it took and how much of it failed. A projector must have counted it.

    Parameters
    ----------
    store
        postgres://… that the projector writes to.
    namespace
        Namespace.
    by
        Tasks by pool; runs by flow or of the namespace.
    last
        How far back: 30s, 10m, 2h.
    json
        One JSON object per line.
    """
    if scheme_of(store) not in POSTGRES:
        raise CommandError(f"windows lie in PostgreSQL, not in {shown(store)}", hint="--store postgres://host/database")
    since_ms = round(time.time() * 1000) - seconds_of(last) * 1000
    found = run_to_end(_read(store, Namespace(checked_name("namespace", namespace)), by, since_ms))
    if json:
        for summary in found:
            print_json(msgspec.to_builtins(summary) | {"counts": msgspec.structs.asdict(summary.counts)})
    else:
        columns = _TASKS if by == "pool" else _RUNS
        print_table((by, *columns), [_row(summary, by == "pool") for summary in found])
    return exits.OK


def seconds_of(last: str) -> int:
    """Of `30s`, `10m` or `2h`. Raises `CommandError`."""
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smh])", last)
    if match is None:
        raise CommandError(f"--last {last!r} is no span of time", hint="a number and s, m or h: 30s, 10m, 2h")
    return int(match[1]) * _SECONDS[match[2]]


async def _read(store: str, namespace: Namespace, by: str, since_ms: int) -> list[Summary]:
    try:
        from stepmesh_projector.postgres import PostgresKeeper
        from stepmesh_projector.summary import summaries
    except ModuleNotFoundError as problem:
        raise missing(problem) from problem
    keeper = PostgresKeeper(store, namespace)
    await keeper.open()
    try:
        return summaries(await keeper.windows(by, since_ms))
    finally:
        await keeper.close()


def _row(summary: Summary, tasks: bool) -> list[object]:
    counts, latency, wait = summary.counts, summary.latency_ms or ("", "", ""), summary.wait_ms or ("", "", "")
    used = (summary.tokens.total or "", ", ".join(f"{cost:g} {currency}".rstrip() for currency, cost in summary.cost.items()))
    if tasks:
        return [summary.name, counts.dispatched, counts.succeeded, counts.failed, counts.retried, *latency, wait[1], *used]
    name = summary.name or summary.namespace
    runs = (counts.runs_started, counts.runs_completed, counts.runs_failed, counts.runs_cancelled)
    return [name, *runs, *latency, counts.dispatched, *used]
