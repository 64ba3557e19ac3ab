"""Bytes of the journal in fewer bytes: Zstandard, on the level that costs less than the disk and the hash that it saves.

The events of a turn repeat ids and names, so a turn of many has a tenth of its size. Invariant: what is expanded is what was compressed,
whatever release of the library did it. Must not know what the bytes mean.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEAST_BYTES = 256
"""Less than that is not worth the microseconds."""
_LEVEL = 1
_compressor = zstd.ZstdCompressor(level=_LEVEL)


def compressed(data: bytes) -> bytes:
    """Nothing when that would save nothing."""
    if len(data) < LEAST_BYTES:
        return b""
    found = _compressor.compress(data, zstd.ZstdCompressor.FLUSH_FRAME)
    return found if len(found) < len(data) else b""


def expanded(data: bytes) -> bytes:
    """Raises `ValueError` for bytes that are nothing compressed, or not all of it."""
    try:
        return zstd.decompress(data)
    except zstd.ZstdError as problem:
        raise ValueError(f"cannot be expanded: {problem}") from problem
