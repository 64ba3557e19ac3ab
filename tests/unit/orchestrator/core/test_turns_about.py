"""Frames are looked at for a run before their events are read: compressed ones, and those that are not."""

from __future__ import annotations

import pytest

from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core.events import ItemStarted, RunEnded, Turn, decode_turn, decode_turn_about, encode_turn

RUNS = [RunId(f"01900000-0000-7000-8000-00000000000{n}") for n in range(3)]


@pytest.mark.parametrize("events", [1, 200], ids=["plain", "compressed"])
def test_a_frame_is_read_where_it_names_the_run(events: int) -> None:
    payload = encode_turn(Turn(1, 5, 6, 7, [ItemStarted(RUNS[0], 0)] * events + [RunEnded(RUNS[1], "completed")]))
    assert decode_turn_about(payload, RUNS[0]) == decode_turn_about(payload, RUNS[1]) == decode_turn(payload)
    assert decode_turn_about(payload, RUNS[2]) is None
