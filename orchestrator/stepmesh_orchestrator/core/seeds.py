"""Results that a run takes over from another one, as the journal keeps them: parts of an event, which never change their meaning."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import FlowId, RunId


class Seed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a step gave in another run, and gives here too. `output` None: it was skipped."""

    step: int
    output: bytes | None


class SeededRun(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a sub-run that a core step may start takes over of `source`, where it is the same one: of this flow, under these variables. Its
    item i, if its input is `inputs[i]`, begins with `seeds[i]`."""

    run: RunId
    source: RunId
    flow: FlowId
    variables: bytes | None
    inputs: list[bytes]
    seeds: list[list[Seed]]
