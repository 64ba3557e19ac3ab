"""How messages are exchanged when a broker's own rate is measured: so many there, so many back, by two processes.

Invariant: of the messages there no more are on their way than the scenario had, and no exchange stands still: what may be sent without a
word from the other side is enough for one. It must not know what carries the messages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """`out` messages of `out_bytes` go there, and for every so many of them one of `back` messages of `back_bytes` comes back. At most
    about `window` of the first are on their way."""

    out: int
    out_bytes: int
    back: int
    back_bytes: int
    window: int

    def due(self, taken: int) -> int:
        """How many messages have to be sent back once `taken` came."""
        return taken * self.back // self.out

    def allowed(self, returned: int) -> int:
        """How many messages may have been sent once `returned` came back."""
        least = math.ceil(self.out / self.back) + 1
        return min(self.out, max(self.window, least) + returned * self.out // self.back)

    def part(self, share: float) -> Exchange:
        """The beginning of it, to warm up."""
        return Exchange(
            out=max(1, int(self.out * share)), out_bytes=self.out_bytes,
            back=max(1, int(self.back * share)), back_bytes=self.back_bytes, window=self.window,
        )  # fmt: skip


class Side(Protocol):
    """One of the two: sends to the other one, and takes what that one sent. Messages are as durable and as batched as the scenario's."""

    async def send(self, messages: int, size: int) -> None:
        """Hand so many messages of `size` bytes to the client; it may still be sending them."""
        ...

    async def sent(self) -> None:
        """Until the broker has them all. Raises what the client raised."""
        ...

    async def take(self) -> int:
        """How many messages came meanwhile; waits for one."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


async def begin(side: Side, exchange: Exchange) -> None:
    """The side that sends first, as an orchestrator does; returns when everything is back."""
    sent = returned = 0
    while returned < exchange.back:
        more = exchange.allowed(returned) - sent
        if more > 0:
            sent += more
            await side.send(more, exchange.out_bytes)
        returned += await side.take()
    await side.sent()


async def answer(side: Side, exchange: Exchange) -> None:
    """The side that answers, as a worker does; returns when the broker has every answer."""
    taken = answered = 0
    while taken < exchange.out:
        taken += await side.take()
        more = exchange.due(taken) - answered
        if more > 0:
            answered += more
            await side.send(more, exchange.back_bytes)
    await side.sent()
