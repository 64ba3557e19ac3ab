"""Letters → messages of inboxes: those of one turn for one partition travel together, as far as a message may grow.

Order is kept, though nobody may count on it. It must not know what letters say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.protocol.messages import FORMAT
from stepmesh_orchestrator.core.effects import Send

LETTERS = 1_000
"""Letters of one message at most, so that a turn of their receiver stays short."""
_AROUND = 64
"""Bytes of a message beside its letters, at most."""
_encoder = msgspec.msgpack.Encoder()


class _Encoded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="letters"):
    """`Letters`, of letters that are encoded already."""

    sender: Partition
    letters: list[msgspec.Raw]
    format: int


def in_messages(sender: Partition, sends: Sequence[Send], max_bytes: int) -> Iterator[tuple[Partition, bytes]]:
    """Partition and message. A single letter that is larger than `max_bytes` travels alone, and is refused by the broker."""
    by_partition: defaultdict[Partition, list[msgspec.Raw]] = defaultdict(list)
    for send in sends:
        by_partition[send.partition].append(msgspec.Raw(_encoder.encode(send.letter)))
    for partition, letters in by_partition.items():
        for page in _pages(letters, max_bytes - _AROUND):
            yield partition, _encoder.encode(_Encoded(sender, page, FORMAT))


def _pages(letters: list[msgspec.Raw], max_bytes: int) -> Iterator[list[msgspec.Raw]]:
    page: list[msgspec.Raw] = []
    size = 0
    for letter in letters:
        length = len(bytes(letter))
        if page and (len(page) == LETTERS or size + length > max_bytes):
            yield page
            page, size = [], 0
        page.append(letter)
        size += length
    if page:
        yield page
