"""Frames of a journal that are looked at for one run: the events of others are not read, which is most of the work.

Invariant: what is found is what reading every frame would find.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core.compression import expanded
from stepmesh_orchestrator.core.events import Turn, decode_turn


class _Sealed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A frame whose events are not read yet. `packed`: they are compressed."""

    format: int
    at_ms: int
    inbox: int
    confirmed: int
    events: msgspec.Raw
    packed: bytes = b""


_decoder = msgspec.msgpack.Decoder(_Sealed)


def decode_turn_about(payload: bytes, run: RunId) -> Turn | None:
    """`decode_turn` of a frame in which the run is named; None of another one."""
    frame = _decoder.decode(payload)
    events = expanded(frame.packed) if frame.packed else bytes(frame.events)
    return decode_turn(payload) if run.encode() in events else None
