"""Plain records on the events topic: how a program with nothing but a producer sends events. docs/protocol.md is the contract.

A record is an event as `stepmesh` writes it down, or a CloudEvent (1.0, structured or binary). Invariant: a record gives the same event,
with the same id, whoever reads it and however often. It must not know who waits, nor how records travel.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.protocol.ids import Namespace, content_id
from stepmesh_broker.protocol.messages import SendEvent
from stepmesh_broker.protocol.records import MEDIA_TYPE, VERSION, PlainRecord

MAX_ID = 256
"""Characters of an event's id."""
CLOUD_MEDIA_TYPE = "application/cloudevents+json"
_PREFIXES = ("ce_", "ce-")
"""Of the headers of a binary CloudEvent: on Kafka, on NATS."""
_NULL = b"null"
Name = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
Run = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Text = Annotated[str, msgspec.Meta(min_length=1)]


class BadEvent(BrokerError):
    """Not retryable: a record of the events topic that is no event, whoever reads it."""

    default_code = "SM-5020"


class _Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To the run `run`, or to whoever waits at (`name`, `key`)."""

    name: str
    run: Run | None = None
    key: str | None = None
    data: msgspec.Raw = msgspec.Raw(_NULL)
    id: Text | None = None
    namespace: Name | None = None


class _CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Its `type` is the event's name, its `subject` the key; `stepmeshrun` and `stepmeshnamespace` are extensions. What else it has is for
    others."""

    specversion: Literal["1.0"]
    id: Text
    source: Text
    type: str
    subject: str | None = None
    data: msgspec.Raw = msgspec.Raw(_NULL)
    data_base64: str | None = None
    stepmeshrun: Run | None = None
    stepmeshnamespace: Name | None = None


class _Versioned(msgspec.Struct):
    specversion: msgspec.Raw = msgspec.Raw(b"")


_event = msgspec.json.Decoder(_Event).decode
_cloud_event = msgspec.json.Decoder(_CloudEvent).decode
_versioned = msgspec.json.Decoder(_Versioned).decode
_SHAPE = 'write {"name": "paid", "key": "7", "data": …}, or a CloudEvent; the protocol\'s page has all fields'


def read_event(record: PlainRecord, own: Namespace) -> SendEvent:
    """What the record says; of the namespace `own` unless it names another one. Raises `BadEvent`: SM-5020 for its value, SM-5021 for its
    headers, SM-5022 for its key."""
    unknown = record.version_problem()
    if unknown is not None:
        raise BadEvent(unknown, code="SM-5021", hint=f"this is version {VERSION}")
    attributes = _attributes(record)
    try:
        record.value.decode()
        found = _binary(record, attributes) if "specversion" in attributes else _structured(record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise BadEvent(f"not an event: {problem or type(problem).__name__}", hint=_SHAPE) from problem
    return _told(found, own) if isinstance(found, _CloudEvent) else _plain(found, record, own)


def _structured(record: PlainRecord) -> _Event | _CloudEvent:
    media = record.media_type
    if media not in (MEDIA_TYPE, CLOUD_MEDIA_TYPE):
        raise _unread(media)
    if media == CLOUD_MEDIA_TYPE or _versioned(record.value).specversion:
        return _with_key(_cloud_event(record.value), record)
    return _event(record.value)


def _binary(record: PlainRecord, attributes: dict[str, str]) -> _CloudEvent:
    """Its value is the data."""
    media = record.media_type
    if media != MEDIA_TYPE and not media.endswith("+json"):
        raise _unread(media)
    found = msgspec.convert({**attributes, "data": msgspec.Raw(record.value or _NULL)}, _CloudEvent)
    msgspec.json.decode(found.data)
    return _with_key(found, record)


def _attributes(record: PlainRecord) -> dict[str, str]:
    """Those of a binary CloudEvent, by their names; `data` is none."""
    named = {name[3:]: value.decode(errors="replace") for name, value in record.headers.items() if name.startswith(_PREFIXES)}
    return {name: text for name, text in named.items() if not name.startswith("data")}


def _with_key(event: _CloudEvent, record: PlainRecord) -> _CloudEvent:
    return event if event.subject is not None else msgspec.structs.replace(event, subject=_key(record))


def _told(event: _CloudEvent, own: Namespace) -> SendEvent:
    """Producers make `source` and `id` unique together."""
    data = bytes(event.data)
    if event.data_base64 is not None:
        data = msgspec.json.encode({"base64": event.data_base64})
    name = f"{event.source}#{event.id}"
    id = name if len(name) <= MAX_ID else content_id(name.encode())
    return SendEvent(_namespace(event.stepmeshnamespace, own), event.type, event.stepmeshrun or event.subject or "", id, data)


def _plain(event: _Event, record: PlainRecord, own: Namespace) -> SendEvent:
    """Without an id it is that of the place in the topic where it lay first."""
    if event.run is not None and event.key is not None:
        raise BadEvent("not an event: it has both `run` and `key`", hint="a run's own address has its id as the key: name one of them")
    key = event.run if event.run is not None else event.key if event.key is not None else _key(record)
    id = "record/{}/{}/{}".format(*record.origin) if event.id is None else event.id
    return SendEvent(_namespace(event.namespace, own), event.name, key, id, bytes(event.data))


def _key(record: PlainRecord) -> str:
    """That of the record, where the event names none."""
    try:
        return record.key.decode()
    except UnicodeDecodeError as problem:
        raise BadEvent("the record's key is no text", code="SM-5022", hint="UTF-8, or no key, or the key in the event itself") from problem


def _namespace(given: str | None, own: Namespace) -> Namespace:
    return own if given is None else Namespace(given)


def _unread(media: str) -> BadEvent:
    return BadEvent(f"content type {media!r} is not read", code="SM-5021", hint=f"send {MEDIA_TYPE} or {CLOUD_MEDIA_TYPE}, or none")
