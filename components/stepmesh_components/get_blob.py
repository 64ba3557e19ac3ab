"""`/get_blob`: read what was stored by content.

Invariant: a JSON value comes back with the digits and key order that it was stored with.
"""

from __future__ import annotations

import base64

import msgspec

from stepmesh import BlobNotFound, Context, InvalidInput


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """`data` is the JSON value, or base64 text when `blob_type` is binary."""

    data: msgspec.Raw
    blob_type: str
    filename: str | None = None
    content_type: str | None = None


async def get_blob(*, blob_id: str, context: Context) -> Found:
    """The value stored under `blob_id`; base64 text when it is binary."""
    try:
        blob = await context.read_blob(blob_id)
    except BlobNotFound as problem:
        raise InvalidInput(problem.message, path="$.blob_id") from problem
    data = msgspec.json.encode(base64.b64encode(blob.data).decode()) if blob.kind == "binary" else blob.data
    return Found(msgspec.Raw(data), blob.kind, blob.filename, blob.content_type)
