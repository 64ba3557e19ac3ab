"""Going on from an ended run in a new one that takes over its results: the request and its answer, part of the api (see api.py)."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import FlowId, RunId


class ContinueRun(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="continue_run"):
    """Start the run `into`, whose id lives on the partition of `run`, with what is still good of the results of `run`. Answer: `Continued`,
    or `Refused` SM-5003, SM-5222 to SM-5228.

    `retry`: of a run that failed or was cancelled, only the items that did not succeed. Else a fork: all items, also of a live run.
    `items`: only these. `from_step` runs again, and what depends on it. What is None stays as it was there: `flow`, `inputs` (one per
    chosen item), `variables`, `overrides`. `tags` are added to those of `run`. `from_step` may be a command of a durable function, alone or
    behind its step (`saga:r/charge`; SM-1080): what was asked for after its result is done again, too.
    """

    run: RunId
    into: RunId
    retry: bool = False
    items: list[int] | None = None
    from_step: str | None = None
    flow: FlowId | None = None
    inputs: list[bytes] | None = None
    variables: bytes | None = None
    overrides: bytes | None = None
    tags: dict[str, str] | None = None
    run_key: str | None = None


class Continued(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="continued"):
    """It is journaled. `items`: those of the first run, in the order of the new one's; the first 1,000. `reused`: steps whose results were
    taken over, and commands of durable functions, in all. `existing`: the run that this key gave before; both are empty then."""

    run: RunId
    existing: bool = False
    items: list[int] = []
    reused: int = 0
