"""`/put_blob`: store a value by its content.

Invariant: a JSON value is handed on as the text that it came as, so that its id is the SHA-256 of its compact form in source key order.
"""

from __future__ import annotations

import base64
import binascii
from typing import Literal

import msgspec

from stepmesh import Context, InvalidInput, RequestRefused


class Stored(msgspec.Struct, frozen=True):
    """Lower-case hex SHA-256."""

    blob_id: str


async def put_blob(
    data: msgspec.Raw,
    blob_type: Literal["data", "flow", "binary"] = "data",
    filename: str | None = None,
    content_type: str | None = None,
    *,
    context: Context,
) -> Stored:
    """Store `data` by its content: any JSON value (data), a flow document (flow), or bytes as base64 text (binary)."""
    try:
        if blob_type == "binary":
            return Stored(await context.put_blob(_bytes(data), filename, content_type))
        return Stored(await context.put_blob(data, filename, content_type, blob_type))
    except RequestRefused as problem:
        raise InvalidInput(str(problem), path="$.data") from problem


def _bytes(data: msgspec.Raw) -> bytes:
    try:
        return base64.b64decode(msgspec.json.decode(data, type=str), validate=True)
    except (msgspec.MsgspecError, binascii.Error, ValueError) as problem:
        raise InvalidInput(f"data of a binary blob is base64 text: {problem}", path="$.data") from problem
