"""Bytes ⇄ messages of one RPC, within the limits; what is not a message is the caller's mistake, not a defect."""

from __future__ import annotations

from google.protobuf.message import DecodeError, Message

from stepmesh_gateway.limits import check_size
from stepmesh_gateway.translate.fields import BadRequest


def read(kind: type[Message], data: bytes, limit: int) -> Message:
    """Raises `OverLimit`, or `BadRequest` for bytes that are no message of the kind."""
    check_size("the message", len(data), limit, "message_bytes", "put large values into blobs")
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name
        hint = "is it nested deeper than 100 messages, or a string that is not UTF-8?"
        raise BadRequest(f"the bytes are not a {name}", hint=hint) from None


def write(message: Message, limit: int) -> bytes:
    """Raises `OverLimit` for an answer that is larger than a message may be."""
    data = message.SerializeToString()
    check_size("the answer", len(data), limit, "message_bytes", "ask for less at once")
    return data
