"""How a frame or snapshot is sealed and checked: pure functions over bytes, shared by every journal backend.

A seal is a CRC-32 (zlib) over header and payload, and a link: the first 16 bytes of SHA-256 over the link before, the
header and the payload. The header binds format version, partition, sequence and epoch, the first link binds the
journal's id; so a frame that was altered, lost, moved to another place or taken from another journal shows. The invariant:
a frame that `ChainWalk` lets through is bit for bit the one that was appended there. Must not know any storage.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import NamedTuple

from stepmesh_broker.protocol.ids import Partition

FORMAT = 1  # of frames and snapshots; a journal of another format is refused at open
LINK_BYTES = 16
_HEADER = struct.Struct("<HIQQ")  # format, partition, sequence, epoch
_SNAPSHOT = b"snapshot"


class StoredFrame(NamedTuple):
    """A frame with its seal, as a backend keeps it. `chain` is its link, `LINK_BYTES` long."""

    sequence: int
    epoch: int
    crc: int
    chain: bytes
    payload: bytes


class StoredSnapshot(NamedTuple):
    """A snapshot with its seal. `chain` is the link of the frame `sequence`, so that it fits this journal only."""

    sequence: int
    crc: int
    chain: bytes
    payload: bytes


def genesis(journal_id: str, partition: Partition) -> bytes:
    """The link before the first frame of a partition of this journal."""
    return hashlib.sha256(f"{journal_id}/{partition}".encode()).digest()[:LINK_BYTES]


def seal(partition: Partition, sequence: int, epoch: int, payload: bytes, previous: bytes) -> StoredFrame:
    """The frame that follows the link `previous`."""
    header = _HEADER.pack(FORMAT, partition, sequence, epoch)
    link = hashlib.sha256(previous + header)
    link.update(payload)
    return StoredFrame(sequence, epoch, zlib.crc32(payload, zlib.crc32(header)), link.digest()[:LINK_BYTES], payload)


def seal_snapshot(partition: Partition, sequence: int, chain: bytes, payload: bytes) -> StoredSnapshot:
    """The snapshot of the state after frame `sequence`, whose link is `chain`."""
    header = _SNAPSHOT + _HEADER.pack(FORMAT, partition, sequence, 0) + chain
    return StoredSnapshot(sequence, zlib.crc32(payload, zlib.crc32(header)), chain, payload)


def snapshot_defect(partition: Partition, snapshot: StoredSnapshot) -> str:
    """Why it must not be used; empty when its seal holds."""
    if [type(field) for field in snapshot] != [int, int, bytes, bytes] or not 0 <= snapshot.sequence < 1 << 64:
        return "its fields have other types than were written"
    intact = seal_snapshot(partition, snapshot.sequence, snapshot.chain, snapshot.payload)
    return "" if intact == snapshot else "its checksum does not match"


class ChainWalk:
    """Walks a partition's frames in order, from the one after `sequence`, whose link is `chain`."""

    def __init__(self, partition: Partition, sequence: int, chain: bytes, epoch: int = 0) -> None:
        self.partition = partition
        self.sequence = sequence
        self.chain = chain
        self.epoch = epoch

    def defect(self, frame: StoredFrame) -> str:
        """Why `frame` is not the next one; empty when it is, and then the walk has moved on to it."""
        if frame.sequence != self.sequence + 1:
            return f"the frame is missing, {frame.sequence} follows"
        if (type(frame.epoch), type(frame.crc), type(frame.chain), type(frame.payload)) != (int, int, bytes, bytes):
            return "its fields have other types than were written"
        if not self.epoch <= frame.epoch < 1 << 64:
            return f"its epoch {frame.epoch} is below the epoch {self.epoch} of the frame before"
        intact = seal(self.partition, frame.sequence, frame.epoch, frame.payload, self.chain)
        if intact.crc != frame.crc:
            return "its checksum does not match"
        if intact.chain != frame.chain:
            return "it does not follow the frame before (hash chain)"
        self.sequence, self.epoch, self.chain = frame.sequence, frame.epoch, frame.chain
        return ""
