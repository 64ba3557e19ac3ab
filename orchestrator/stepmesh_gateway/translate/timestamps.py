"""Milliseconds since 1970 as each door writes a moment."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(ms: int) -> Timestamp:
    """The protobuf message."""
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def rfc3339(ms: int) -> str:
    """Text as REST has it: `2026-11-21T19:40:03.120Z`."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
