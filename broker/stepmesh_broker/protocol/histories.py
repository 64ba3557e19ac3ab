"""What a durable function did, as a list of records in the order of the journal: commands that its body issued, what came of them, and what
it was asked meanwhile.

Invariant: a record is only ever appended. The position of a record among all others is what a replay goes by, so no record is delivered to
a body before it is in the journal. `value` and `arguments` are JSON text.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from stepmesh_broker.errors import MalformedMessage
from stepmesh_broker.protocol.messages import Failure


class Kind(StrEnum):
    """What a command asks for."""

    STEP = "step"  # a function of the worker that runs the body
    CALL = "call"  # a component of any pool
    CHILD = "child"  # another flow or function
    TIMER = "timer"
    EVENT = "event"
    PROMISE = "promise"
    EFFECT = "effect"  # a value that the body made itself: time, randomness, a small reading
    PATCH = "patch"
    ATTRIBUTE = "attribute"
    STREAM = "stream"
    TAG = "tag"  # `arguments`: its value, null when it is taken away
    REPLY = "reply"  # to the update whose id is the command's name; `arguments`: {value} or {error: {code, message}}


NOTES = frozenset({Kind.EFFECT, Kind.PATCH, Kind.ATTRIBUTE, Kind.STREAM, Kind.TAG, Kind.REPLY})
"""What a body notes down and nobody answers; everything else is settled once."""


class Began(msgspec.Struct, frozen=True, array_like=True, tag="b", gc=False):
    """The first record: the body was started, at the time that its clock shows first. `version`: of its code."""

    at_ms: int
    version: str = ""


class Issued(msgspec.Struct, frozen=True, array_like=True, tag="c", gc=False):
    """The body asked for something. `id`: scope path, name and how many of that name the scope had (`r.2/charge`, `r.2/charge#2`).

    `fingerprint`: of the arguments as they were bound; "" where arguments may differ. `where`: `file:line` of the await. `options`: how it
    is to be done, as a JSON object or nothing; a replay may give others. STEP, CALL, CHILD: {retry: {max, initial_ms, max_ms}, timeout_ms}
    (attempts of a STEP follow from the code; there they stand to be seen); EVENT: {since_ms, until}, `until` the id of a TIMER
    with whose end nobody waits for the event any more; PROMISE: {timeout_ms}; any: {undoes}, the id of the command ("" for none) since
    which all is undone, by this command among others."""

    id: str
    kind: Kind
    name: str
    fingerprint: str
    arguments: bytes
    where: str
    at_ms: int = 0
    options: bytes = b""


class Settled(msgspec.Struct, frozen=True, array_like=True, tag="s", gc=False):
    """What came of the command `id`: a value, or a failure. `attempt`: how often it was tried, from 1."""

    id: str
    at_ms: int
    value: bytes = b"null"
    failure: Failure | None = None
    attempt: int = 1


class Tried(msgspec.Struct, frozen=True, array_like=True, tag="t", gc=False):
    """Attempt `attempt` of the local step `id` failed, and the next is due at `due_ms`. The body does not hear of it."""

    id: str
    at_ms: int
    attempt: int
    failure: Failure
    due_ms: int


class CancelAsked(msgspec.Struct, frozen=True, array_like=True, tag="x", gc=False):
    """The run is to be cancelled: told to the body once, at this place."""

    at_ms: int
    reason: str = ""


class UpdateAsked(msgspec.Struct, frozen=True, array_like=True, tag="u", gc=False):
    """Somebody asks the body for a change and waits for a reply: its handler `name` runs as a task of the body from this place on.

    `id` is the asker's, once per run; `arguments`: JSON text, read as the input of a component is."""

    id: str
    at_ms: int
    name: str
    arguments: bytes = b"{}"


class TakenOver(msgspec.Struct, frozen=True, array_like=True, tag="o", gc=False):
    """What stands before this was taken over from another run; from here on the history is the run's own. `kept`: how many more results of
    that run are at hand, for commands that the body issues again: so it tells each command before it does it. `place`: what the body was
    known by to others there (`run.item.step`), and is here; "" where nothing stands before."""

    at_ms: int
    kept: int = 0
    place: str = ""


Record = Began | Issued | Settled | Tried | CancelAsked | UpdateAsked | TakenOver
_LEAST_BYTES = 64
"""Of a record, beside its texts."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Record])


def encode_records(records: list[Record]) -> bytes:
    """As a task carries them."""
    return _encoder.encode(records)


def decode_records(data: bytes) -> list[Record]:
    """Raises `MalformedMessage`."""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as problem:
        raise MalformedMessage(f"not a history: {problem} ({len(data)} bytes)", hint="upgrade the worker first") from problem


def size_of(record: Record) -> int:
    """About how many bytes it takes on its way: all that may be large is counted."""
    if isinstance(record, Issued):
        return _LEAST_BYTES + len(record.arguments) + len(record.options) + len(record.id) + len(record.name) + len(record.where)
    if isinstance(record, Settled):
        return _LEAST_BYTES + len(record.value) + len(record.id) + _size_of_failure(record.failure)
    if isinstance(record, Tried):
        return _LEAST_BYTES + len(record.id) + _size_of_failure(record.failure)
    if isinstance(record, UpdateAsked):
        return _LEAST_BYTES + len(record.arguments) + len(record.id) + len(record.name)
    return _LEAST_BYTES + (len(record.reason) if isinstance(record, CancelAsked) else 0)


def _size_of_failure(failure: Failure | None) -> int:
    return 0 if failure is None else len(failure.message) + len(failure.data or b"")
