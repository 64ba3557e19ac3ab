"""Seals and chains: whatever bit of a stored frame or snapshot flips, wherever a frame moves, it shows."""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import (
    FORMAT,
    LINK_BYTES,
    ChainWalk,
    StoredFrame,
    StoredSnapshot,
    genesis,
    seal,
    seal_snapshot,
    snapshot_defect,
)

P = Partition(5)
START = genesis("journal", P)
GOLDEN_CRC, GOLDEN_CHAIN = 2589386833, "2a2e439a9274386cf41aa44ba8175105"
UINT64 = st.integers(0, 2**64 - 1)


def chain_of(count: int, partition: Partition = P, start: bytes = START) -> list[StoredFrame]:
    frames: list[StoredFrame] = []
    for number in range(1, count + 1):
        frames.append(seal(partition, number, number // 3, b"payload %d" % number, frames[-1].chain if frames else start))
    return frames


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def first_defect(frames: list[StoredFrame], start: bytes = START, partition: Partition = P) -> tuple[int, str]:
    """How many frames the walk let through, and why it stopped."""
    walk = ChainWalk(partition, 0, start)
    for index, frame in enumerate(frames):
        reason = walk.defect(frame)
        if reason:
            return index, reason
    return len(frames), ""


def test_the_seal_is_the_documented_one() -> None:
    """Golden: journals on disk depend on these bytes."""
    header = struct.pack("<HIQQ", 1, 5, 7, 3)
    frame = seal(P, 7, 3, b"payload", b"p" * 16)
    assert (FORMAT, LINK_BYTES) == (1, 16)
    assert frame.crc == zlib.crc32(header + b"payload")
    assert frame.chain == hashlib.sha256(b"p" * 16 + header + b"payload").digest()[:16]
    assert genesis("journal", P) == hashlib.sha256(b"journal/5").digest()[:16]


def test_the_seal_never_changes() -> None:
    frame = seal(P, 1, 1, b"payload", START)
    assert (frame.crc, frame.chain.hex()) == (GOLDEN_CRC, GOLDEN_CHAIN)


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_what_was_sealed_verifies(payloads: list[bytes]) -> None:
    walk, chain = ChainWalk(P, 0, START), START
    for number, payload in enumerate(payloads, 1):
        frame = seal(P, number, 1, payload, chain)
        assert walk.defect(frame) == ""
        assert (walk.sequence, walk.chain) == (number, frame.chain)
        chain = frame.chain


@given(st.data(), st.binary(min_size=1, max_size=400), UINT64, st.integers(1, 2**62))
def test_any_flipped_bit_of_a_frame_is_detected(data: st.DataObject, payload: bytes, epoch: int, sequence: int) -> None:
    frame = seal(P, sequence, epoch, payload, START)
    field = data.draw(st.sampled_from(StoredFrame._fields))
    value = getattr(frame, field)
    if isinstance(value, bytes):
        changed: Any = flipped(value, data.draw(st.integers(0, len(value) * 8 - 1)))
    else:
        changed = value ^ 1 << data.draw(st.integers(0, 63))
    assert ChainWalk(P, sequence - 1, START).defect(frame._replace(**{field: changed})) != ""
    assert ChainWalk(P, sequence - 1, START).defect(frame) == ""


@given(st.data(), st.binary(min_size=1, max_size=400), st.integers(0, 2**63))
def test_any_flipped_bit_of_a_snapshot_is_detected(data: st.DataObject, payload: bytes, sequence: int) -> None:
    snapshot = seal_snapshot(P, sequence, START, payload)
    field = data.draw(st.sampled_from(StoredSnapshot._fields))
    value = getattr(snapshot, field)
    if isinstance(value, bytes):
        changed: Any = flipped(value, data.draw(st.integers(0, len(value) * 8 - 1)))
    else:
        changed = value ^ 1 << data.draw(st.integers(0, 63))
    assert snapshot_defect(P, snapshot._replace(**{field: changed})) != ""
    assert snapshot_defect(P, snapshot) == ""


@pytest.mark.parametrize("index", range(6))
def test_a_missing_frame_is_detected(index: int) -> None:
    frames = chain_of(7)
    del frames[index]
    assert first_defect(frames) == (index, f"the frame is missing, {index + 2} follows")


@pytest.mark.parametrize("index", range(6))
def test_frames_that_changed_places_are_detected(index: int) -> None:
    frames = chain_of(7)
    frames[index], frames[index + 1] = frames[index + 1], frames[index]
    assert first_defect(frames)[0] == index


def test_a_frame_of_another_partition_journal_or_history_is_detected() -> None:
    frames = chain_of(3)
    assert first_defect(frames) == (3, "")
    assert first_defect(frames, genesis("other", P))[0] == 0
    assert first_defect(chain_of(3, Partition(6), START))[0] == 0
    rewritten = seal(P, 2, 0, b"another second frame", frames[0].chain)
    assert first_defect([frames[0], rewritten, frames[2]]) == (2, "it does not follow the frame before (hash chain)")


def test_an_epoch_never_goes_back() -> None:
    first = seal(P, 1, 4, b"", START)
    assert "below the epoch 4" in first_defect([first, seal(P, 2, 3, b"", first.chain)])[1]
    assert first_defect([first, seal(P, 2, 4, b"", first.chain)]) == (2, "")


@pytest.mark.parametrize("fields", [{"payload": "text"}, {"payload": None}, {"chain": 5}, {"crc": b"1"}, {"epoch": None}, {"epoch": 2**64}])
def test_fields_of_another_type_are_a_defect_not_a_crash(fields: dict[str, Any]) -> None:
    frame = seal(P, 1, 1, b"payload", START)._replace(**fields)
    assert ChainWalk(P, 0, START).defect(frame) != ""


@pytest.mark.parametrize(
    "fields", [{"payload": "text"}, {"chain": None}, {"crc": 1.5}, {"sequence": "1"}, {"sequence": -1}, {"sequence": 2**64}]
)
def test_snapshot_fields_of_another_type_are_a_defect_not_a_crash(fields: dict[str, Any]) -> None:
    snapshot = seal_snapshot(P, 1, START, b"payload")._replace(**fields)
    assert snapshot_defect(P, snapshot) != ""


def test_a_frame_is_no_snapshot() -> None:
    frame = seal(P, 1, 0, b"payload", START)
    assert snapshot_defect(P, StoredSnapshot(1, frame.crc, frame.chain, frame.payload)) != ""
