"""Routes of `/v1/dead-letters`: messages that nobody could take, with the reason."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from stepmesh_broker.protocol.dead_letters import MOST, DeadLetter, ListDeadLetters
from stepmesh_broker.protocol.ids import Position
from stepmesh_gateway.http.refusals import bad_parameter
from stepmesh_gateway.http.registry import Asked, NoQuery, Ok, Route, Scope

_POSITION = re.compile(r"[0-9]{1,18}")


class Nothing(msgspec.Struct, frozen=True, kw_only=True):
    """A body without fields."""


class LettersQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`pool`: of that one only; records of topics are under `submit` and `events`."""

    pool: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = 100


class LetterView(msgspec.Struct, frozen=True, kw_only=True):
    """`data`: its first 4,096 bytes at most as text, `data_base64` where they are none; `size`: how many it has."""

    position: int
    pool: str
    reason: str
    size: int
    data: str | None = None
    data_base64: str | None = None


class Letters(msgspec.Struct, frozen=True, kw_only=True):
    """Oldest first."""

    letters: list[LetterView]


async def list_letters(asked: Asked[LettersQuery, None]) -> Letters:
    """What lies there."""
    found = await asked.operations.dead_letters(ListDeadLetters(asked.query.limit, asked.query.pool))
    return Letters(letters=[_view(one) for one in found])


class ResentView(msgspec.Struct, frozen=True, kw_only=True):
    """The topic that has the record again."""

    topic: str


async def drop_letter(asked: Asked[NoQuery, None]) -> Ok:
    """It is gone for good."""
    await asked.operations.drop_dead_letter(_position(asked.path["position"]))
    return Ok()


async def resend_letter(asked: Asked[NoQuery, Nothing]) -> ResentView:
    """Its topic has it, and it is gone here."""
    return ResentView(topic=await asked.operations.resend_dead_letter(_position(asked.path["position"])))


def _position(given: str) -> Position:
    if not _POSITION.fullmatch(given):
        raise bad_parameter(f"{given[:40]!r} is no position of a dead letter")
    return Position(int(given))


def _view(letter: DeadLetter) -> LetterView:
    name, data = letter.shown
    return LetterView(position=letter.position, pool=letter.pool, reason=letter.reason, size=letter.size, **{name: data})


ROUTES = (
    Route(
        method="GET", path="/v1/dead-letters", scope=Scope.READ, summary="Messages that nobody could take", handler=list_letters,
        query=LettersQuery, answer=Letters,
    ),
    Route(
        method="DELETE", path="/v1/dead-letters/{position}", scope=Scope.DEPLOY, summary="Drop a dead letter", handler=drop_letter,
        answer=Ok,
    ),
    Route(
        method="POST", path="/v1/dead-letters/{position}/resend", scope=Scope.DEPLOY, summary="Send a record again", handler=resend_letter,
        body=Nothing, answer=ResentView,
    ),
)  # fmt: skip
