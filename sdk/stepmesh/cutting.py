"""Many inputs → the parts that become runs of their own.

Invariant: where a batch is cut follows from its inputs and the two sizes alone, so the same batch is cut the same way again, whatever the
deployment. At most one part is read ahead. It must not know what a run is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from typing import Any, NamedTuple

from stepmesh import payloads

PER_INPUT = 8
"""Bytes counted for an input beside its own."""


class Part(NamedTuple):
    """`inputs` as JSON text; `first`: index of the first one in the batch. `whole`: it is all of the batch."""

    inputs: list[bytes]
    first: int
    bytes: int
    number: int
    whole: bool


async def parts(inputs: Iterable[Any] | AsyncIterable[Any], max_items: int, max_bytes: int) -> AsyncGenerator[Part]:
    """An input above `max_bytes` is a part of its own. No input is one part without any. Raises `NotJson`."""
    first = number = 0
    taken: list[bytes] = []
    size = 0
    async with aclosing(_each(inputs)) as values:
        async for value in values:
            written = payloads.write(value)
            cost = len(written) + PER_INPUT
            if taken and (len(taken) == max_items or size + cost > max_bytes):
                yield Part(taken, first, size, number, whole=False)
                first, number, taken, size = first + len(taken), number + 1, [], 0
            taken.append(written)
            size += cost
    yield Part(taken, first, size, number, whole=number == 0)


async def _each(inputs: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any]:
    if isinstance(inputs, AsyncIterable):
        async for value in inputs:
            yield value
    else:
        for value in inputs:
            yield value
