"""Results that a run takes over from another one, as the journal keeps them: parts of an event, which never change their meaning."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.histories import Kind, Record, UpdateAsked
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


class Kept(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a command of a durable function gave in another run, and gives here too, when it is asked for again with the same arguments."""

    id: str
    kind: Kind
    name: str
    fingerprint: str
    value: bytes


class FunctionSeed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the durable function of a step takes over from the one in another run. `records`: its history there, as far as it is good, for
    a body that is given `input` again; without that, as another one, only results count. `kept`: those that came behind. `updates`: what
    it was asked behind it. `abandoned`: commands of `records` that it waited for no more. `continued`: the input with which it had begun
    anew. `place`: `run.item.step` there."""

    item: int
    step: int
    input: bytes
    records: list[Record]
    kept: list[Kept] = []
    updates: list[UpdateAsked] = []
    abandoned: list[str] = []
    continued: bytes | None = None
    place: str = ""
