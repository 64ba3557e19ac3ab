"""Fields of requests that name something: refused here when they cannot, so that nobody is asked for what cannot exist."""

from __future__ import annotations

import re
import uuid

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.ids import BlobId, FlowId, RunId

_CONTENT_ID = re.compile(r"[0-9a-f]{64}\Z")
LARGEST = 2**63 - 1
"""Positions and offsets beyond are no different from it: nothing is there."""


class BadRequest(StepmeshError):
    """A request that cannot be read, or a field of it that cannot be what it should be. `field`: its name as the request has it."""

    default_code = "SM-7002"

    def __init__(self, message: str, *, field: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field = field


def run_id(text: str, field: str = "run_id") -> RunId:
    """A run's id in canonical form. Raises `BadRequest`."""
    try:
        return RunId(str(uuid.UUID(text)))
    except ValueError:
        raise BadRequest(f"{field} {text[:80]!r} is not the id of a run", field=field, hint="run ids are UUIDs") from None


def flow_id(text: str, field: str = "flow_id") -> FlowId:
    """Raises `BadRequest`."""
    return FlowId(_content_id(text, field))


def blob_id(text: str, field: str = "blob_id") -> BlobId:
    """Raises `BadRequest`."""
    return BlobId(_content_id(text, field))


def _content_id(text: str, field: str) -> str:
    found = text.lower()
    if not _CONTENT_ID.match(found):
        raise BadRequest(f"{field} {text[:80]!r} is not a content id", field=field, hint="flow and blob ids are 64 hexadecimal digits")
    return found
