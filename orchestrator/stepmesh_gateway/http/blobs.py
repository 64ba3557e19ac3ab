"""Routes of blobs: JSON as JSON, bytes as `application/octet-stream`, both ways."""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import Response

from stepmesh_broker.protocol import api
from stepmesh_gateway.http import messages, views
from stepmesh_gateway.http.registry import OCTETS, Answer, Asked, NoQuery, Route, Scope
from stepmesh_gateway.translate.fields import blob_id


async def put_blob(asked: Asked[NoQuery, messages.PutBlob | bytes]) -> messages.BlobStored:
    """The same content has the same id."""
    body = asked.body
    if isinstance(body, bytes):
        filename = _filename(asked)
        blob = api.PutBlob(body, "binary", filename, OCTETS)
    else:
        filename = body.filename
        blob = api.PutBlob(bytes(body.data), body.blob_type or "data", filename)
    return messages.BlobStored(blob_id=await asked.operations.put_blob(blob), filename=filename)


async def get_blob(asked: Asked[NoQuery, None]) -> Answer:
    """As JSON, or its content alone."""
    blob = await asked.operations.get_blob(blob_id(asked.path["blobId"], "blobId"))
    if OCTETS not in asked.caller.headers.get("accept", ""):
        return views.blob(blob)
    headers = {"X-Blob-Type": blob.kind, "X-Content-Type-Options": "nosniff", "Content-Disposition": _disposition(blob.filename)}
    return Response(blob.data, headers=headers, media_type=OCTETS)


def _filename(asked: Asked[object, object]) -> str | None:
    given = asked.caller.headers.get("x-blob-filename")
    if given is None:
        return None
    sent = given.encode("latin-1")
    try:
        return sent.decode()
    except UnicodeDecodeError:
        return given


def _disposition(filename: str | None) -> str:
    """RFC 6266; a name that a header cannot hold is escaped (RFC 8187)."""
    if filename is None:
        return "attachment"
    plain = filename.isascii() and filename.isprintable() and not set(filename) & set('"\\%')
    return f'attachment; filename="{filename}"' if plain else f"attachment; filename*=UTF-8''{quote(filename, safe='', errors='replace')}"


ROUTES = (
    Route(
        method="POST", path="/api/v1/blobs", scope=Scope.RUN, summary="Store a blob", handler=put_blob, body=messages.PutBlob,
        octets=True, answer=messages.BlobStored, headers={"X-Blob-Filename": "name of the bytes"},
    ),
    Route(
        method="GET", path="/api/v1/blobs/{blobId}", scope=Scope.READ, summary="A blob", handler=get_blob, answer=messages.Blob,
        media=("application/json", OCTETS),
    ),
)  # fmt: skip
