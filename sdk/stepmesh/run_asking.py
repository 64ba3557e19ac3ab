"""What a durable function of a run is asked, and what it tells: updates with their replies, and streams.

Invariant: an update is one however often it is said, by its id; where a reader of a stream goes on, nothing is missed or told twice. Both
are read from the run's events, so they outlive every restart. It must not know how a body handles them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, NoReturn

import msgspec

from stepmesh.errors import RequestRefused, StepmeshError, UpdateFailed, WaitTimeout
from stepmesh.requests import Requests
from stepmesh_broker.protocol.api import RunEvent
from stepmesh_broker.protocol.histories import Kind
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import AskUpdate, UpdateTaken

BEGIN_S = 5.0
"""How long a run may take to begin its function before an update is refused, in seconds; half of the time for the reply at most."""
PAUSE_S = 0.05
"""Pause before it is asked again meanwhile, in seconds."""
Reader = Callable[[bool, int], AsyncIterator[RunEvent]]
"""Of a run's events: to the end of the run or not, behind which position."""
_NOT_BEGUN = "SM-5281"
_OVER = frozenset({"step_completed", "step_failed", "step_skipped", "step_defaulted"})
_GOES_ON = frozenset({"step_started", "function_advanced"})


class BadCursor(StepmeshError):
    """No place in a stream."""

    default_code = "SM-1077"


class StreamValue(NamedTuple):
    """`value`: decoded. `cursor`: pass it as `after` to go on behind this one. `item`: whose function wrote it."""

    value: Any
    cursor: str
    item: int


class Written(NamedTuple):
    """The same with its JSON text."""

    data: bytes
    cursor: str
    item: int


class _Note(msgspec.Struct):
    kind: str = ""
    name: str = ""
    value: msgspec.Raw = msgspec.Raw(b"null")


class _Advanced(msgspec.Struct):
    step: int = -1
    records: list[_Note] = []
    blocked: str = ""


class _Reply(msgspec.Struct):
    value: msgspec.Raw = msgspec.Raw(b"null")
    error: dict[str, Any] | None = None


_advanced = msgspec.json.Decoder(_Advanced)
_reply = msgspec.json.Decoder(_Reply)


async def update(requests: Requests, events: Reader, asked: AskUpdate, timeout_s: float | None) -> bytes:
    """The reply, as JSON text. Raises `UpdateFailed`, `WaitTimeout`, `RequestRefused`."""
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            return await _replied(
                events, asked, await _taken(requests, asked, BEGIN_S if timeout_s is None else min(BEGIN_S, timeout_s / 2))
            )
    except TimeoutError:
        if not limit.expired():
            raise
        raise WaitTimeout(
            f"the update `{asked.name}` of run {asked.run} has no reply after {timeout_s:g} s", hint=f"ask again with its id {asked.id}"
        ) from None


async def _taken(requests: Requests, asked: AskUpdate, begin_s: float) -> UpdateTaken:
    """A function that was submitted just now is waited for."""
    clock = asyncio.get_running_loop().time
    until = clock() + begin_s
    while True:
        try:
            return await requests.ask_update(asked)
        except RequestRefused as refused:
            if refused.code != _NOT_BEGUN or clock() >= until:
                raise
        await asyncio.sleep(PAUSE_S)


async def _replied(events: Reader, asked: AskUpdate, taken: UpdateTaken) -> bytes:
    after = taken.position
    if taken.existing:
        reply, blocked, after = await _so_far(events, asked, taken)
        if reply is not None or blocked:
            return _value(asked, reply) if reply is not None else _blocked(asked, blocked)
    async for event, told in _of_function(events(True, after), taken):
        reply = _reply_in(told, asked)
        if reply is not None:
            return _value(asked, reply)
        if event.kind == "function_idle" and told.blocked:
            _blocked(asked, told.blocked)
        if event.kind in _OVER:
            break
    raise UpdateFailed(
        f"the function ended before it replied to `{asked.name}`",
        code="SM-1075",
        hint="let the body wait for its updates before it returns",
    )


async def _so_far(events: Reader, asked: AskUpdate, taken: UpdateTaken) -> tuple[_Reply | None, str, int]:
    """Of an update that was known already: its reply, else why the function is blocked now, and up to where the events were read. A block
    that it went on after is none any more."""
    blocked, position = "", taken.position
    async for event, told in _of_function(events(False, position), taken):
        reply, position = _reply_in(told, asked), event.position
        if reply is not None:
            return reply, "", position
        if event.kind == "function_idle":
            blocked = told.blocked
        elif event.kind in _GOES_ON:
            blocked = ""
    return None, blocked, position


async def _of_function(events: AsyncIterator[RunEvent], taken: UpdateTaken) -> AsyncIterator[tuple[RunEvent, _Advanced]]:
    async for event in events:
        if event.item == taken.item and event.run == taken.run:
            told = _advanced.decode(event.data)
            if told.step == taken.step:
                yield event, told


def _reply_in(told: _Advanced, asked: AskUpdate) -> _Reply | None:
    found = next((note for note in told.records if note.kind == Kind.REPLY and note.name == asked.id), None)
    return None if found is None else _reply.decode(found.value)


def _blocked(asked: AskUpdate, why: str) -> NoReturn:
    raise UpdateFailed(f"the function is blocked before it replied to `{asked.name}`: {why}", code="SM-1074")


def _value(asked: AskUpdate, reply: _Reply) -> bytes:
    if reply.error is None:
        return bytes(reply.value)
    message = str(reply.error.get("message", ""))
    raise UpdateFailed(f"the update `{asked.name}` was refused: {message}", hint="its validator, or its handler, raised it")


async def stream(events: Reader, run: RunId, name: str, after: str = "", *, follow: bool = True) -> AsyncIterator[StreamValue]:
    """What the run's functions write to a stream, behind the cursor `after`, to the end of the run; without `follow` what is there."""
    position, index = cursor(after)
    async for event in events(follow, position - 1 if index else position):
        for value in written(event, run, name):
            if cursor(value.cursor) > (position, index):
                yield StreamValue(msgspec.json.decode(value.data), value.cursor, value.item)


def written(event: RunEvent, run: RunId, name: str) -> list[Written]:
    """The values of a stream that an event of its run has."""
    if event.kind != "function_advanced" or event.run != run or event.item is None:
        return []
    notes = [note for note in _advanced.decode(event.data).records if note.kind == Kind.STREAM and note.name == name]
    return [Written(bytes(note.value), f"{event.position}.{number}", event.item) for number, note in enumerate(notes, start=1)]


def cursor(text: str) -> tuple[int, int]:
    """The position of an event, and which of its values it was; 0: all of them. The beginning without text. Raises `BadCursor`."""
    position, _, number = (text or "0").partition(".")
    number = number or "0"
    if not (text.isascii() and position.isdigit() and number.isdigit() and len(text) < 40):
        raise BadCursor(f"{text[:40]!r} is no place in a stream", hint="pass the cursor of a value of this stream")
    return int(position), int(number)
