"""Compiled flows at hand, and the way to more: the store. Flow documents are stored before anything that names them is journaled."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TypeVar

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
_IN_THREAD_BYTES = 100_000


class FlowRegistry:
    """The core's `Flows`, filled from the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._compiled: OrderedDict[tuple[FlowId, bytes | None], CompiledFlow] = OrderedDict()
        self._texts: OrderedDict[bytes, CompiledFlow | Failure] = OrderedDict()

    def get(self, flow: FlowId, overrides: bytes | None = None) -> CompiledFlow | None:
        """By id and overrides; None when it is not loaded."""
        return self._compiled.get((flow, overrides))

    def by_text(self, document: bytes) -> CompiledFlow | Failure | None:
        """By document text; None until `add_text` has seen it."""
        return self._texts.get(document)

    async def load(self, flow: FlowId, overrides: bytes | None = None) -> CompiledFlow | None:
        """From memory or the store (a flow, or a blob of kind flow); None when unknown. Raises `FlowInvalid`."""
        known = self._compiled.get((flow, overrides))
        if known is not None:
            self._compiled.move_to_end((flow, overrides))
            return known
        document = await self._document(flow)
        if document is None:
            return None
        compiled = await _compile(document, overrides)
        _keep(self._compiled, (flow, overrides), compiled)
        return compiled

    async def add(self, document: bytes, compiled: CompiledFlow) -> CompiledFlow:
        """Store and keep a flow that was compiled from `document` (compact JSON)."""
        await self._store.put_flow(FlowRecord(compiled.id, compiled.name, document, self._clock.now_ms()))
        _keep(self._compiled, (compiled.id, None), compiled)
        return compiled

    async def add_text(self, text: bytes) -> Failure | None:
        """Store and keep the flow in a step's input; the failure when it is no valid flow."""
        try:
            document = dumps(load(text, name="inline flow").value)
            compiled = await self.add(document, await _compile(document, None))
        except FlowInvalid as problem:
            failure = invalid_flow(problem)
            _keep(self._texts, text, failure)
            return failure
        _keep(self._texts, text, compiled)
        return None

    async def fetch(self, flow: FlowId) -> Failure | None:
        """`load` for a step: the failure when there is no such flow or it is invalid."""
        try:
            found = await self.load(flow)
        except FlowInvalid as problem:
            return invalid_flow(problem)
        return None if found is not None else Failure(ErrorCode.INVALID_INPUT, f"there is no flow with id {flow}")

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


def _keep(cache: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    cache[key] = value
    if len(cache) > KEPT:
        cache.popitem(last=False)
