"""Compiled flows at hand, and the way to more: the store. Flow documents are stored before anything that names them is journaled.

Invariant: what is at hand is stored. A flow that is being removed is at nobody's hand, so that no new run can begin to use it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import msgspec

from stepmesh_broker.protocol.ids import BlobId, FlowId
from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.flow.compile import compile_stored
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.flow.diagnostics import FlowInvalid
from stepmesh_orchestrator.core.flow.document import load
from stepmesh_orchestrator.core.flow.jsontext import dumps
from stepmesh_orchestrator.ports import Clock, FlowRecord, Store

_K = TypeVar("_K")
_V = TypeVar("_V")
KEPT = 2_000
"""Compiled flows kept at hand. Live runs hold their own, so this bounds only re-compilation."""
KEPT_BYTES = 64 * 1024 * 1024
"""Documents of the flows kept at hand, bytes; what is compiled from them takes a few times as much."""
_IN_THREAD_BYTES = 100_000
MOST_NAMED = 50
"""Flows of a name, newest first, that are looked through for a version."""
_SHOWN = 10


class _Versioned(msgspec.Struct):
    version: str | None = None


_version = msgspec.json.Decoder(_Versioned)


class _Recent(Generic[_K, _V]):
    """What was used last, bounded by count and by bytes; the newest entry stays whatever its size."""

    def __init__(self) -> None:
        self._entries: OrderedDict[_K, tuple[_V, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: _K) -> _V | None:
        """None when it is not kept."""
        found = self._entries.get(key)
        if found is None:
            return None
        self._entries.move_to_end(key)
        return found[0]

    def keep(self, key: _K, value: _V, size: int) -> None:
        """Add or replace; the least recently used ones go. `size` in bytes."""
        older = self._entries.pop(key, None)
        self._entries[key] = (value, size)
        self._bytes += size - (0 if older is None else older[1])
        self._shrink()

    def drop(self, is_meant: Callable[[_K, _V], bool]) -> None:
        """Forget those."""
        for key in [key for key, (value, _) in self._entries.items() if is_meant(key, value)]:
            self._bytes -= self._entries.pop(key)[1]

    def _shrink(self) -> None:
        while len(self._entries) > 1 and (len(self._entries) > KEPT or self._bytes > KEPT_BYTES):
            _, (_, dropped) = self._entries.popitem(last=False)
            self._bytes -= dropped


class FlowRegistry:
    """The core's `Flows`, filled from the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._compiled: _Recent[tuple[FlowId, bytes | None], CompiledFlow] = _Recent()
        self._texts: _Recent[bytes, CompiledFlow | Failure] = _Recent()
        self._loading: dict[tuple[FlowId, bytes | None], asyncio.Future[CompiledFlow | None]] = {}
        self._locks: WeakValueDictionary[FlowId, asyncio.Lock] = WeakValueDictionary()

    def get(self, flow: FlowId, overrides: bytes | None = None) -> CompiledFlow | None:
        """By id and overrides; None when it is not loaded."""
        return self._compiled.get((flow, overrides))

    def by_text(self, document: bytes) -> CompiledFlow | Failure | None:
        """By document text; None until `add_text` has seen it."""
        return self._texts.get(document)

    async def load(self, flow: FlowId, overrides: bytes | None = None) -> CompiledFlow | None:
        """From memory or the store (a flow, or a blob of kind flow); None when unknown. Raises `FlowInvalid`, `StoreError`.
        Those who ask at the same time share one compilation."""
        key = (flow, overrides)
        while (known := self._compiled.get(key)) is None:
            loading = self._loading.get(key)
            if loading is None:
                loading = self._loading[key] = asyncio.ensure_future(self._load(flow, overrides))
                loading.add_done_callback(lambda _: self._loading.pop(key, None))
            if await asyncio.shield(loading) is None:
                return None
        return known  # looked up without a pause before it: it cannot have been removed meanwhile

    async def add(self, document: bytes, compiled: CompiledFlow) -> CompiledFlow:
        """Store and keep a flow that was compiled from `document` (compact JSON)."""
        async with self._alone(compiled.id):
            await self._store.put_flow(FlowRecord(compiled.id, compiled.name, document, self._clock.now_ms()))
            self._compiled.keep((compiled.id, None), compiled, len(document))
        return compiled

    async def remove(self, flow: FlowId, is_used: Callable[[], Awaitable[bool]]) -> bool:
        """Delete a flow from memory and store; False when it is used. `is_used` is asked when nobody can begin to use it any more."""
        async with self._alone(flow):
            self._drop(flow)
            if await is_used():
                return False
            await self._store.delete_flow(flow)
            return True

    async def forget(self, flow: FlowId) -> None:
        """Have it at hand no more: another process removes it from the store."""
        async with self._alone(flow):
            self._drop(flow)

    def forget_all(self) -> None:
        """What is at hand may not be stored any more: other processes removed flows while this one was not asked."""
        self._compiled.drop(lambda key, found: True)
        self._texts.drop(lambda key, found: True)

    def _drop(self, flow: FlowId) -> None:
        self._compiled.drop(lambda key, _: key[0] == flow)
        self._texts.drop(lambda _, found: not isinstance(found, Failure) and found.id == flow)

    async def add_text(self, text: bytes) -> Failure | None:
        """Store and keep the flow in a step's input; the failure when it is no valid flow."""
        try:
            document = dumps(load(text, name="inline flow").value)
            compiled = await self.add(document, await _compile(document, None))
        except FlowInvalid as problem:
            failure = invalid_flow(problem)
            self._texts.keep(text, failure, len(text))
            return failure
        self._texts.keep(text, compiled, len(text))
        return None

    async def fetch(self, flow: FlowId) -> Failure | None:
        """`load` for a step: the failure when there is no such flow or it is invalid."""
        try:
            found = await self.load(flow)
        except FlowInvalid as problem:
            return invalid_flow(problem)
        return None if found is not None else Failure(ErrorCode.INVALID_INPUT, f"there is no flow with id {flow}")

    async def named(self, name: str, version: str) -> CompiledFlow | Failure:
        """The flow of this name and version that was stored last; SM-1042 when there is none. Raises `StoreError`."""
        found = list[str]()
        for record in await self._store.flows_named(name, MOST_NAMED):
            told = _version.decode(record.document).version
            if told == version:
                try:
                    flow = await self.load(record.id)
                except FlowInvalid as problem:
                    return invalid_flow(problem)
                if flow is not None:
                    return flow
            elif told and told not in found:
                found.append(told)
        versions = (
            f"versions of {name!r} that are stored: {', '.join(found[:_SHOWN])}" if found else f"no flow {name!r} that is stored has one"
        )
        text = f"SM-1042 there is no flow {name!r} of version {version!r}; {versions}"
        return Failure(ErrorCode.INVALID_INPUT, f"{text} (store it, with `name` and `version` in the document, before it is asked for)")

    def _alone(self, flow: FlowId) -> asyncio.Lock:
        """Held while a flow is stored, loaded or removed."""
        lock = self._locks.get(flow)
        if lock is None:
            lock = self._locks[flow] = asyncio.Lock()
        return lock

    async def _load(self, flow: FlowId, overrides: bytes | None) -> CompiledFlow | None:
        async with self._alone(flow):
            document = await self._document(flow)
            if document is None:
                return None
            compiled = await _compile(document, overrides)
            self._compiled.keep((flow, overrides), compiled, len(document) + len(overrides or b""))
            return compiled

    async def _document(self, flow: FlowId) -> bytes | None:
        record = await self._store.get_flow(flow)
        if record is not None:
            return record.document
        blob = await self._store.get_blob(BlobId(flow))
        return None if blob is None or blob.kind == "binary" else blob.data


def invalid_flow(problem: FlowInvalid) -> Failure:
    """INVALID_INPUT that lists the findings."""
    found = "; ".join(f"{item.code} {item.path}: {item.message}" for item in problem.diagnostics.items[:10])
    return Failure(ErrorCode.INVALID_INPUT, f"not a valid flow: {found or problem.message}")


async def _compile(document: bytes, overrides: bytes | None) -> CompiledFlow:
    if len(document) > _IN_THREAD_BYTES:
        return await asyncio.to_thread(compile_stored, document, overrides)
    return compile_stored(document, overrides)
