"""Where a gateway says no because something is too large or too many.

Invariant: every refusal names the limit, its value, and the setting that raises it.

It must not know doors: each of them asks here, so that the same limit means the same on both.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from stepmesh_broker.errors import StepmeshError
from stepmesh_gateway.settings import Limits


class OverLimit(StepmeshError):
    """A payload, message, answer or metadata that is larger than the gateway takes."""

    default_code = "SM-7003"


class TooManyStreams(StepmeshError):
    """One stream more than the gateway keeps open."""

    default_code = "SM-7004"


def check_size(what: str, size: int, limit: int, setting: str, instead: str = "") -> None:
    """Raises `OverLimit` when `size` bytes are more than `limit`. `setting`: a field of `Limits`; `instead`: a better way."""
    if size > limit:
        way = f"{instead}, or " if instead else ""
        raise OverLimit(
            f"{what} has {size:,} bytes; limits.{setting} is {limit:,}", hint=f"{way}raise limits.{setting} in the configuration"
        )


def check_payload(what: str, data: bytes, limits: Limits) -> None:
    """Raises `OverLimit` for one input, set of variables or blob that is too large."""
    check_size(what, len(data), limits.payload_bytes, "payload_bytes", "split it")


def check_streams(worker: str, count: int, limits: Limits) -> None:
    """Raises `TooManyStreams` when a worker that has `count` task streams opens another one."""
    if count >= limits.streams_per_worker:
        raise TooManyStreams(
            f"worker {worker[:80]} has {count} task streams open; limits.streams_per_worker is {limits.streams_per_worker}",
            hint="give each worker an id of its own, or raise limits.streams_per_worker in the configuration",
        )


class Streams:
    """How many streams are open, of all doors together."""

    def __init__(self, limits: Limits) -> None:
        self._limit = limits.streams
        self.count = 0

    @contextmanager
    def one_more(self) -> Generator[None]:
        """Counts while it is entered. Raises `TooManyStreams`."""
        if self.count >= self._limit:
            raise TooManyStreams(
                f"this gateway has {self.count:,} streams open; limits.streams is {self._limit:,}",
                hint="close some, connect to another gateway, or raise limits.streams in the configuration",
            )
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
