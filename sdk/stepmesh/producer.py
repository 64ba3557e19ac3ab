"""A producer: any number of submissions of one flow, many of them under way at once, each answered once it is journaled.

Invariant: what is under way is bounded; who submits more waits. What is refused loses nothing else, and is told once: by its batch, or by
`flush`. A part is repeated with its run id while the orchestrator is away, so it is one run at most; with a key it is one run whoever
submits it again. It must not know how submissions travel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, Self

from stepmesh.batches import Answer, Batch
from stepmesh.cutting import Part, parts
from stepmesh.documents import FlowLike
from stepmesh.errors import RequestRefused, StepmeshError, SubmissionRefusal, SubmissionsRefused
from stepmesh.headroom import Headroom, Load
from stepmesh.instrument import SubmitInstrument
from stepmesh.requests import Requests
from stepmesh.runs import RunHandle
from stepmesh.submitting import RunOptions, Submitter

MAX_REFUSED = 1_000
"""Refusals that wait to be told; at so many `submit` tells them."""


class ProducerMisused(StepmeshError):
    """Limits that let nothing through, or a submission outside of `async with`."""

    default_code = "SM-6120"


@dataclass(frozen=True, kw_only=True)
class ProducerLimits:
    """`items_per_run` and `bytes_per_run`: larger batches become several runs. `…_under_way`: not acknowledged yet. `patience_s`: how long
    a submission is repeated while nobody answers, in seconds."""

    items_per_run: int = 1_000
    bytes_per_run: int = 512 * 1024
    runs_under_way: int = 256
    inputs_under_way: int = 10_000
    bytes_under_way: int = 16 * 1024 * 1024
    patience_s: float = 600.0

    def __post_init__(self) -> None:
        """Raises `ProducerMisused`."""
        for limit in fields(self):
            if not getattr(self, limit.name) > 0:
                raise ProducerMisused(f"{limit.name} is {getattr(self, limit.name)}", hint="give a number above 0")


PRODUCER_LIMITS = ProducerLimits()


class Producer:
    """`async with client.producer(flow) as producer:`; leaving it in order waits as `flush` does, leaving it by an exception gives up what
    is not acknowledged yet."""

    _submitter: Submitter | None = None

    def __init__(
        self, requests: Requests, flow: FlowLike, instrument: SubmitInstrument | None, limits: ProducerLimits, options: RunOptions
    ) -> None:
        self._requests = Requests(requests.broker, requests.namespace, limits.patience_s, waits_for_space=True)
        self._flow = flow
        self._instrument = instrument
        self._limits = limits
        self._options = options
        self._room = Headroom(Load(limits.runs_under_way, limits.inputs_under_way, limits.bytes_under_way))
        self._sending: set[asyncio.Task[Answer]] = set()
        self._refused: list[SubmissionRefusal] = []

    async def __aenter__(self) -> Self:
        """Stores the flow. Raises as `Client.store_flow`."""
        self._submitter = await Submitter.of(self._requests, self._flow, self._instrument, **self._options)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        """Raises `SubmissionsRefused`, unless it is left by another exception."""
        try:
            if problem is None:
                await self.flush()
        finally:
            self._submitter = None
            for sending in self._sending:
                sending.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)

    @property
    def under_way(self) -> Load:
        """What is not acknowledged yet."""
        return self._room.taken

    async def submit(self, inputs: Iterable[Any] | AsyncIterable[Any], *, key: str | None = None) -> Batch:
        """Start a run with one item per input, or several runs, where there are more than one takes; returns once all are on their way.

        `key`: the run key, which makes it idempotent. Of several runs it is `key/0`, `key/1`, …. Raises `NotJson` for an input: those in
        parts before it are on their way. Raises `SubmissionsRefused` when very many submissions were refused and nobody looked.
        """
        if isinstance(inputs, (str, bytes, Mapping)):
            raise ProducerMisused("`inputs` has one entry per item", hint=f"submit([{type(inputs).__name__}])")
        batch = Batch(key, self._seen)
        limits = self._limits
        async with aclosing(parts(inputs, limits.items_per_run, limits.bytes_per_run)) as cut:
            async for part in cut:
                await self._begin(batch, part)
        return batch

    async def flush(self) -> None:
        """Returns when all that was submitted before is journaled. Raises `SubmissionsRefused` for what was not, and was not told yet."""
        if self._sending:
            await asyncio.wait({*self._sending})
        self._tell()

    async def _begin(self, batch: Batch, part: Part) -> None:
        if len(self._refused) >= MAX_REFUSED:
            self._tell()
        load = Load(1, len(part.inputs), part.bytes)
        await self._room.take(load)
        submitter = self._submitter
        if submitter is None:
            self._room.give_back(load)
            raise ProducerMisused("this producer is not open", hint="async with client.producer(flow) as producer: …")
        key = batch.key if batch.key is None or part.whole else f"{batch.key}/{part.number}"
        sending = asyncio.create_task(self._send(submitter, part, key))
        self._sending.add(sending)
        sending.add_done_callback(lambda done: self._sent(done, load))
        batch.add(part.first, sending)

    async def _send(self, submitter: Submitter, part: Part, key: str | None) -> Answer:
        try:
            run = await submitter.submit(part.inputs, key)
            if run.existing and not part.whole:
                await self._check(run, part, key)
            return run
        except Exception as problem:  # whatever it is, nobody else would tell it
            refusal = SubmissionRefusal(key, part.first, len(part.inputs), problem)
            self._refused.append(refusal)
            return refusal

    async def _check(self, run: RunHandle, part: Part, key: str | None) -> None:
        """A batch that was cut in another way has other inputs under its keys, and some under none."""
        total = (await run.info()).summary.total
        if total != len(part.inputs):
            message = f"key {key!r} is of run {run.id} with {total} inputs, not {len(part.inputs)}: the batch was cut in another way"
            raise RequestRefused(message, code="SM-6122", hint="the same inputs with the same limits are cut the same way")

    def _sent(self, done: asyncio.Task[Answer], load: Load) -> None:
        self._sending.discard(done)
        self._room.give_back(load)

    def _seen(self, refusal: SubmissionRefusal) -> None:
        if refusal in self._refused:
            self._refused.remove(refusal)

    def _tell(self) -> None:
        if self._refused:
            told, self._refused = self._refused, []
            raise SubmissionsRefused(told)
