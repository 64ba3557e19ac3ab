"""A node, a worker and a client in one process, each with its own pipeline into one span file, as three processes would have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stepmesh import Client, RunHandle, Worker
from stepmesh.otel import OtelInstrument
from stepmesh_broker.memory import MemoryBroker, MemoryBus
from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.telemetry import TelemetrySettings
from stepmesh_broker.telemetry.pipeline import open_pipeline
from stepmesh_broker.telemetry.span_file import SpanRecord, load
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.core.flow.compiled import Backoff
from stepmesh_orchestrator.core.session import EngineSettings
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.runtime.partition import Ports
from stepmesh_orchestrator.store.memory import MemoryStore
from stepmesh_orchestrator.telemetry.setup import ProcessTelemetry, start

NAMESPACE = Namespace("default")
ENGINE = EngineSettings(backoff=Backoff("constant", 1, 1, 1.0, 0.0))


class World:
    """`path`: the span file. Parts are opened by `start` and may be left out of telemetry with None. `clock`: the
    next node's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.worker = Worker(pool="cpu")
        self.settings: dict[str, TelemetrySettings | None] = dict.fromkeys(
            ("orchestrator", "worker", "client"), TelemetrySettings(trace_file=path)
        )
        self.telemetry: ProcessTelemetry | None = None
        self.node: Node
        self.client: Client
        self.clock = SystemClock()
        self._bus = MemoryBus()
        self._journal, self._store = MemoryJournal(), MemoryStore()
        self._instruments: list[OtelInstrument] = []
        self._working: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Node, worker, client."""
        await self.start_node()
        self.worker.instrument = self._instrument("worker")
        self._working = asyncio.create_task(self.worker.run(await self._broker()))
        self.client = Client(await self._broker(), instrument=self._instrument("client"))

    async def start_node(self) -> None:
        """An orchestrator process over the same journal, store and broker."""
        self.telemetry = start(self.settings["orchestrator"], "node-1")
        ports = Ports(await self._broker(), self._journal, self._store, self.clock, self.telemetry)
        self.node = Node(ports, NodeSettings(engine=ENGINE))
        await self.node.start()

    async def stop_node(self) -> None:
        """It ends as a process does: its state is gone, the journal stays."""
        await self.node.stop()
        if self.telemetry is not None:
            await asyncio.to_thread(self.telemetry.close)

    async def stop(self) -> None:
        """Everything."""
        if self._working is not None:
            self.worker.stop()
            await self._working
        await self.stop_node()
        for instrument in self._instruments:
            await asyncio.to_thread(instrument.close)

    async def ended(self, handle: RunHandle) -> list[SpanRecord]:
        """The spans so far, once the run is over."""
        await handle.wait(30)
        return self.spans()

    def spans(self) -> list[SpanRecord]:
        """All that was emitted so far."""
        for part in (self.telemetry, *self._instruments):
            if part is not None:
                part.flush()
        return load(self.path)[0] if self.path.exists() else []

    def _instrument(self, part: str) -> OtelInstrument | None:
        settings = self.settings[part]
        if settings is None:
            return None
        self._instruments.append(OtelInstrument(open_pipeline(settings, f"stepmesh-{part}")))
        return self._instruments[-1]

    async def _broker(self) -> MemoryBroker:
        broker = MemoryBroker(self._bus, NAMESPACE)
        await broker.connect()
        return broker


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Not started, so that a test may change what it has."""
    made = World(tmp_path / "spans.jsonl")
    yield made
    await made.stop()


def flow(*steps: dict[str, Any], output: Any) -> dict[str, Any]:
    """A flow document."""
    return {"name": "traced", "description": "for tests", "steps": list(steps), "output": output}


def of_kind(spans: list[SpanRecord], kind: str) -> list[SpanRecord]:
    """Spans of one kind, by start."""
    return sorted((span for span in spans if span.attributes.get(names.KIND) == kind), key=lambda span: span.start_ns)


def one(spans: list[SpanRecord], kind: str, **attributes: Any) -> SpanRecord:
    """The only span of that kind with these attributes (underscores for dots, without the `stepmesh_`)."""
    wanted = {f"stepmesh.{name.replace('_', '.')}": value for name, value in attributes.items()}
    found = [span for span in of_kind(spans, kind) if wanted.items() <= span.attributes.items()]
    assert len(found) == 1, (kind, attributes, [span.attributes for span in of_kind(spans, kind)])
    return found[0]
