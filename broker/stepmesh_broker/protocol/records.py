"""Plain records: what a program with nothing but a producer writes, and the topics that it writes to. docs/protocol.md is the contract.

It must not know what records say, nor how they travel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from stepmesh_broker.errors import StepmeshError

VERSION = "1"
"""Of the contract: the header `stepmesh-contract`, where a record has it."""
MEDIA_TYPE = "application/json"
AGAIN = "stepmesh-again"
"""Header of a record that was a dead letter and is sent again: where it lay first."""

_ORIGIN = re.compile(rb"([0-9]{1,10})/([0-9]{1,19})/([0-9]{1,19})")


class Topic(StrEnum):
    """`stepmesh.<namespace>.<topic>`, which anybody may write to."""

    SUBMIT = "submit"
    """Records that start runs (`submission.py`)."""
    EVENTS = "events"
    """Events from outside (`event_records.py`)."""


class PlainRecord(NamedTuple):
    """A record as it lies in its topic: `position` in a `lane`, both for ever. `headers` by their names in lower case; `time_ms` is when it
    was written, by the record. `problem`: why its data, and perhaps that of records right before it, is not known."""

    lane: int
    position: int
    time_ms: int
    value: bytes
    key: bytes = b""
    headers: Mapping[str, bytes] = {}
    problem: StepmeshError | None = None

    @property
    def origin(self) -> tuple[int, int, int]:
        """Lane, position and time where it lay first: what names it, however often it is sent again."""
        said = _ORIGIN.fullmatch(self.headers.get(AGAIN, b""))
        return (self.lane, self.position, self.time_ms) if said is None else (int(said[1]), int(said[2]), int(said[3]))

    @property
    def place(self) -> str:
        """For people."""
        return f"{self.lane}@{self.position}"

    def version_problem(self) -> str | None:
        """Why its version of the contract cannot be read; None when it can."""
        version = self.headers.get("stepmesh-contract", VERSION.encode()).decode(errors="replace")
        return None if version == VERSION else f"version {version!r} of the contract is not known"

    @property
    def media_type(self) -> str:
        """Of its value, in lower case; JSON unless it says otherwise."""
        return self.headers.get("content-type", MEDIA_TYPE.encode()).decode(errors="replace").partition(";")[0].strip().lower()
