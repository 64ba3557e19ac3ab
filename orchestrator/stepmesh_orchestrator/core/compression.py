"""Bytes of the journal in fewer bytes: Zstandard, on the level that costs less than the disk and the hash that it saves.

The events of a turn repeat ids and names, so a turn of many has a tenth of its size, and one of few half of it. Invariant: what is expanded
is what was compressed, whatever release of the library did it. Must not know what the bytes mean.
"""

from __future__ import annotations

import sys

from stepmesh_orchestrator.core.dictionary import EVENTS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEAST_BYTES = 64
"""Less than that is not worth the microseconds."""
_LEVEL = 1
_EVENTS = zstd.ZstdDict(EVENTS)
_compressor = zstd.ZstdCompressor(level=_LEVEL, zstd_dict=_EVENTS.as_digested_dict)


def compressed(data: bytes) -> bytes:
    """Nothing when that would save nothing."""
    if len(data) < LEAST_BYTES:
        return b""
    found = _compressor.compress(data, zstd.ZstdCompressor.FLUSH_FRAME)
    return found if len(found) < len(data) else b""


def expanded(data: bytes) -> bytes:
    """Raises `ValueError` for bytes that are nothing compressed, or not all of it."""
    try:
        return zstd.decompress(data, zstd_dict=_EVENTS)
    except zstd.ZstdError as problem:
        raise ValueError(f"cannot be expanded: {problem}") from problem
