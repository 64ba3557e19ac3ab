"""Journals that releases wrote are read the same for ever: equal state hashes after every frame."""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from tests.replay.history import FOLDER, replay
from tests.simulation.virtual_loop import run_virtual

from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.events import decode_turn

HISTORIES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_todays_engine_reads_it_the_same(path: Path) -> None:
    history = json.loads(path.read_text())
    assert run_virtual(replay(history)) == history["hashes"]


def test_compressed_frames_are_among_them() -> None:
    frames = json.loads((FOLDER / "0.4.2-compressed.json").read_text())["frames"]
    formats = Counter(msgspec.msgpack.decode(base64.b64decode(frame))[0] for frame in frames)
    assert formats[2] > formats[1] > 0


def test_the_histories_hold_every_kind_of_event() -> None:
    kinds = {
        type(event).__name__
        for path in HISTORIES
        for frame in json.loads(path.read_text())["frames"]
        for event in decode_turn(base64.b64decode(frame)).events
    }
    assert kinds == {kind.__name__ for kind in events.Event.__args__}
