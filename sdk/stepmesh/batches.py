"""What was submitted with one call of a producer: the runs that it became, and the results of its inputs as they come.

Only reads; runs go on without it. This module must not know how submissions are paced.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple

from stepmesh.errors import RunFailed, SubmissionRefusal, SubmissionsRefused
from stepmesh.runs import RunHandle, value_of
from stepmesh_broker.protocol.api import ItemResult
from stepmesh_broker.protocol.ids import RunId

FOLLOWED = 8
"""Runs of a batch whose results are followed at once."""
READ_AHEAD = 1_000
"""Results that wait for a slow reader."""
Answer = RunHandle | SubmissionRefusal


@dataclass(frozen=True)
class Ended:
    """An input that ended. `index` in its batch; `item` of `run`. `error` is None for one that succeeded, else `value` is None."""

    index: int
    run: RunId
    item: int
    value: Any
    error: RunFailed | None


class _Sent(NamedTuple):
    """A part under way. `first`: index of its first input in the batch."""

    first: int
    answer: asyncio.Task[Answer]


class Batch:
    """`await batch` gives its runs once they are journaled. `key`: as it was submitted."""

    def __init__(self, key: str | None, seen: Callable[[SubmissionRefusal], None]) -> None:
        self.key = key
        self._seen = seen
        self._sent: list[_Sent] = []

    def add(self, first: int, answer: asyncio.Task[Answer]) -> None:
        """One more part."""
        self._sent.append(_Sent(first, answer))

    def __await__(self) -> Generator[Any, Any, list[RunHandle]]:
        """See `runs`."""
        return self.runs().__await__()

    async def runs(self) -> list[RunHandle]:
        """In the order of the inputs, once they are journaled: one, unless the batch was cut. Raises `SubmissionsRefused`; `flush` does not
        tell that again."""
        answers = [await asyncio.shield(sent.answer) for sent in self._sent]
        refused = [answer for answer in answers if isinstance(answer, SubmissionRefusal)]
        for one in refused:
            self._seen(one)
        if refused:
            raise SubmissionsRefused(refused)
        return [answer for answer in answers if isinstance(answer, RunHandle)]

    async def results(self) -> AsyncGenerator[Ended]:
        """Each input's result as it ends, in any order; those that ended before come as well. What was refused, or kept from starting by a
        cancel, has none."""
        ready: asyncio.Queue[Ended | Exception | None] = asyncio.Queue(READ_AHEAD)
        following = asyncio.create_task(self._follow_all(ready))
        try:
            while (ended := await ready.get()) is not None:
                if isinstance(ended, Exception):
                    raise ended
                yield ended
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow_all(self, ready: asyncio.Queue[Ended | Exception | None]) -> None:
        left = iter([*self._sent])
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(FOLLOWED, len(self._sent))):
                    group.create_task(_follow(left, ready))
        except ExceptionGroup as problems:
            await ready.put(problems.exceptions[0])
        else:
            await ready.put(None)


async def _follow(left: Iterator[_Sent], ready: asyncio.Queue[Ended | Exception | None]) -> None:
    """`left` is shared: whoever is done takes the next one."""
    for sent in left:
        answer = await asyncio.shield(sent.answer)
        if isinstance(answer, RunHandle):
            async with aclosing(_results(answer)) as results:
                async for item in results:
                    await ready.put(_ended(answer.id, sent.first, item))


async def _results(run: RunHandle) -> AsyncGenerator[ItemResult]:
    """By events while it lives; what they do not tell (of a run that ended before) by its items."""
    seen: set[int] = set()
    if not (await run.info()).summary.is_over:
        async for event in run.events():
            if event.run == run.id and event.kind == "item_completed" and event.item is not None:
                seen.add(event.item)
                yield ItemResult(event.item, "", event.data, event.at_ms)
    async for item in run.items():
        if item.item not in seen:
            yield item


def _ended(run: RunId, first: int, item: ItemResult) -> Ended:
    try:
        return Ended(first + item.item, run, item.item, value_of(run, item), None)
    except RunFailed as problem:
        return Ended(first + item.item, run, item.item, None, problem)
