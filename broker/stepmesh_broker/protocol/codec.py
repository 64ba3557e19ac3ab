"""Bytes ⇄ messages. The one place that knows the encoding (MessagePack), the format version and what malformed means."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from stepmesh_broker.errors import MalformedMessage
from stepmesh_broker.protocol.api import ApiAnswer, ApiRequest
from stepmesh_broker.protocol.functions import FunctionsTurned, FunctionTurns, Nudge
from stepmesh_broker.protocol.messages import FORMAT, Answer, ControlMessage, Hello, InboxMessage, Stop, TaskFrame
from stepmesh_broker.protocol.peers import PeerAnswer, PeerRequest
from stepmesh_broker.protocol.queries import PAGED, HistoryPage, QueryTask, ReadHistory

_M = TypeVar("_M")
_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
"""Any message of messages.py → bytes."""

_task_frame = msgspec.msgpack.Decoder(TaskFrame)
_inbox = msgspec.msgpack.Decoder(InboxMessage)
_control = msgspec.msgpack.Decoder(ControlMessage | FunctionTurns | ReadHistory)
_answer = msgspec.msgpack.Decoder(Answer | FunctionsTurned | HistoryPage)
_api_request = msgspec.msgpack.Decoder(ApiRequest)
_api_answer = msgspec.msgpack.Decoder(ApiAnswer)
_peer_request = msgspec.msgpack.Decoder(PeerRequest)
_peer_answer = msgspec.msgpack.Decoder(PeerAnswer)
_query = msgspec.msgpack.Decoder(QueryTask)
_presence = msgspec.msgpack.Decoder(Hello | Stop | Nudge)


def decode_task_frame(data: bytes) -> TaskFrame:
    """Raises `MalformedMessage` for anything but a task frame of a known format."""
    frame: TaskFrame = _decode(_task_frame, data, "task frame")
    return _known(frame, frame.format)


def decode_inbox(data: bytes) -> InboxMessage:
    """Raises `MalformedMessage` for anything but an inbox message of a known format."""
    message: InboxMessage = _decode(_inbox, data, "inbox message")
    return _known(message, message.format)


def decode_control(data: bytes) -> ControlMessage | FunctionTurns | ReadHistory:
    """Raises `MalformedMessage`."""
    message: ControlMessage | FunctionTurns | ReadHistory = _decode(_control, data, "control message")
    return message


def decode_answer(data: bytes) -> Answer | FunctionsTurned | HistoryPage:
    """Raises `MalformedMessage`."""
    message: Answer | FunctionsTurned | HistoryPage = _decode(_answer, data, "answer")
    return message


def decode_presence(data: bytes) -> Hello | Stop | Nudge:
    """Raises `MalformedMessage`."""
    message: Hello | Stop | Nudge = _decode(_presence, data, "presence message")
    return message


def decode_api_request(data: bytes) -> ApiRequest:
    """Raises `MalformedMessage`."""
    message: ApiRequest = _decode(_api_request, data, "api request")
    return message


def decode_api_answer(data: bytes) -> ApiAnswer:
    """Raises `MalformedMessage`."""
    message: ApiAnswer = _decode(_api_answer, data, "api answer")
    return message


def decode_query(data: bytes) -> QueryTask:
    """Raises `MalformedMessage` for anything but a question of a known format."""
    message: QueryTask = _decode(_query, data, "question to a worker")
    return _known(message, message.format, PAGED)


def decode_peer_request(data: bytes) -> PeerRequest:
    """Raises `MalformedMessage`."""
    message: PeerRequest = _decode(_peer_request, data, "request to an owner")
    return message


def decode_peer_answer(data: bytes) -> PeerAnswer:
    """Raises `MalformedMessage`."""
    message: PeerAnswer = _decode(_peer_answer, data, "owner's answer")
    return message


def _decode(decoder: msgspec.msgpack.Decoder[Any], data: bytes, what: str) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise MalformedMessage(f"not a {what} of format {FORMAT}: {problem} ({len(data)} bytes, begins {bytes(data[:16])!r})") from problem


def _known(message: _M, version: int, newest: int = FORMAT) -> _M:
    if not 1 <= version <= newest:
        raise MalformedMessage(f"format {version} is not known here (up to {newest})", hint="upgrade this side of the connection first")
    return message
