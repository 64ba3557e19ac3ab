"""Milliseconds since 1970 as protobuf writes a moment."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(ms: int) -> Timestamp:
    """The message."""
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)
