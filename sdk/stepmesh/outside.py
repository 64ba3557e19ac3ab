"""Telling runs what happened outside: events by address, answers by token. Reading what happened in runs is here too, under one name.

Each may be sent twice without harm: an event by its id, an answer because the same one again is accepted. It must not know what waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from stepmesh import payloads
from stepmesh.requests import Requests
from stepmesh.runs import RunHandle
from stepmesh.uuid7 import new_run_id
from stepmesh_broker.protocol.api import RunEvent
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import EventKept


class Events:
    """`client.events`: called with a run, what happened in it; `send`: an event for whoever waits for it."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def __call__(self, run: str, follow: bool = True, after: int = 0) -> AsyncIterator[RunEvent]:
        """Status events of a run; to resume, pass the last seen event's `position` as `after`."""
        return RunHandle(self._requests, RunId(run)).events(follow, after)

    async def send(
        self, name: str, *, key: str | int = "", data: Any = None, id: str | None = None, tenant: str | None = None
    ) -> EventKept:
        """An event for everybody who waits at the address (name, key), now or within the time that it is kept; returns once it is
        journaled. `key`: a run's id is that run's own address. `id`: an event with an id that is known there already changes nothing; by
        default a new one. `tenant`: for runs of that namespace; a run's own address is the same in all. Raises `RequestRefused`: SM-5200
        to SM-5202, SM-5008."""
        return await self._requests.send_event(name, str(key), new_run_id() if id is None else id, payloads.write(data), tenant)


class Promises:
    """`client.promises`: what a step waits for, by the token that it shows."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def resolve(self, token: str, value: Any = None) -> None:
        """Answer it; an approval takes `True`, or `{"approved": …, "by": …, "comment": …}`. Raises `RequestRefused`: SM-1060 for a token
        that is unknown, settled or expired, SM-5203 and SM-5204 for what is no decision of an approval."""
        await self._requests.settle(token, payloads.write(value), False)

    async def reject(self, token: str, reason: Any = None) -> None:
        """Say no: an approval is not given, any other wait fails. `reason`: a text, or as for `resolve`. Raises as `resolve`."""
        await self._requests.settle(token, payloads.write(reason), True)
