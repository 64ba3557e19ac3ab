"""The life of a namespace's data, from answers that are scripted."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.kafka import connection as connection_module
from stepmesh_broker.kafka.connection import Connection
from stepmesh_broker.kafka.life import Life, Lives
from stepmesh_broker.kafka.settings import KafkaSettings


class Births:
    """Topics, publisher and look-up in one; `shown`: what the topic's first record says, None when it is not shown."""

    births = "births"

    def __init__(self, shown: bytes | None) -> None:
        self.shown = shown

    async def ensure(self, _topic: str, *, again: bool) -> int:
        return int(again)

    async def publish(self, _record: Any) -> None:
        """It is there; whether it is shown is another thing."""

    async def first(self, _place: Any) -> Any:
        return None if self.shown is None else SimpleNamespace(value=self.shown)


def lives(births: Any, heard: list[Life]) -> Lives:
    return Lives(births, births, births, heard.append)


async def test_a_birth_that_is_not_shown_is_no_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions are counted from it: one at 0 would lie before all that the journals know."""
    births, heard = Births(b"1000 first"), list[Life]()
    known = lives(births, heard)
    assert await known.present() == Life("first", 1000)
    monkeypatch.setattr("stepmesh_broker.kafka.life._FRESH_S", 0.0)
    births.shown = None
    with pytest.raises(BrokerUnavailable, match="births"):
        await known.present()
    births.shown = b"1000 first"
    assert await known.present() == Life("first", 1000)
    assert heard == []


async def test_the_life_is_watched_on_after_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ACL that is wrong for a moment must not end the watch: inboxes would count on in a life that is over."""
    monkeypatch.setattr(connection_module, "_WATCH_S", 0.0)
    looked = asyncio.Event()
    answers: list[Exception] = [BrokerError("not allowed"), BrokerUnavailable("away")]

    async def present() -> Life:
        if answers:
            raise answers.pop(0)
        looked.set()
        await asyncio.Event().wait()
        raise AssertionError

    connection = Connection(KafkaSettings())
    connection.lives.present = present  # type: ignore[method-assign]
    watching = asyncio.create_task(connection._watch())
    async with asyncio.timeout(10):
        await asyncio.wait([watching, asyncio.create_task(looked.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert looked.is_set()
    watching.cancel()
