"""One partition of a journal, read from outside: frames in, rows of the read model and windows out.

Invariant: frames come in order, each once; rows are those that the owner of the partition makes of the same frames, because both
replay them through the same appliers. An image of it, and the frames after it, give what all frames give. Must not know Kafka.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core.events import decode_turn
from stepmesh_orchestrator.core.evolve.runs import forget_finished
from stepmesh_orchestrator.core.flow.routing import Router
from stepmesh_orchestrator.core.rows import Row
from stepmesh_orchestrator.core.session import EngineSettings
from stepmesh_orchestrator.core.snapshot import decode_state, encode_state, flows_in
from stepmesh_orchestrator.core.state import State
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.recovery import ReplayFlows, replay
from stepmesh_projector.meter import Meter, MeterImage
from stepmesh_projector.windows import Place, Windows

IMAGE_FORMAT = 1
_MEMORY = EngineSettings()


class _Image(msgspec.Struct, array_like=True):
    format: int
    state: bytes
    meter: MeterImage
    windows: list[tuple[Place, bytes]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Image)


class Fold:
    """`sequence`: of the last frame that was taken; `at_ms`: its time."""

    def __init__(self, state: State, flows: ReplayFlows, meter: Meter, windows: Windows) -> None:
        self._state = state
        self._flows = flows
        self._meter = meter
        self.windows = windows
        self.at_ms = 0

    @classmethod
    def begin(cls, partition: Partition, registry: FlowRegistry, router: Router, windows: Windows) -> Fold:
        """Before the first frame."""
        flows = ReplayFlows(registry)
        return cls(State(partition), flows, Meter(windows, flows, router), windows)

    @classmethod
    async def restore(cls, image: bytes, registry: FlowRegistry, router: Router, windows: Windows) -> Fold:
        """From an `image`. Raises `ValueError` or `LookupError` when this release cannot use it."""
        read = _decoder.decode(image)
        if read.format > IMAGE_FORMAT:
            raise ValueError(f"image of format {read.format}; this version reads up to {IMAGE_FORMAT}")
        flows = await _flows_of(read.state, registry)
        windows.restore(read.windows)
        return cls(decode_state(read.state, flows), flows, Meter(windows, flows, router, read.meter), windows)

    @classmethod
    async def resume(cls, state: bytes, registry: FlowRegistry, router: Router, windows: Windows) -> Fold:
        """After a snapshot of the journal; of tasks that were under way then, nothing is counted. Raises as `restore`."""
        flows = await _flows_of(state, registry)
        return cls(decode_state(state, flows), flows, Meter(windows, flows, router), windows)

    @property
    def sequence(self) -> int:
        """See above."""
        return self._state.sequence

    def image(self) -> bytes:
        """All that is needed to go on after the last frame."""
        return _encoder.encode(_Image(IMAGE_FORMAT, encode_state(self._state), self._meter.image(), self.windows.image()))

    async def take(self, sequence: int, payload: bytes) -> list[Row]:
        """The next frame's rows. Raises `ValueError` for a payload that is no frame of this release, `StoreError`."""
        turn = decode_turn(payload)
        rows: list[Row] = []
        await replay(self._state, sequence, turn, self._flows, rows, self._meter)
        self.at_ms = turn.at_ms
        forget_finished(self._state, turn.at_ms - _MEMORY.remember_ended_ms, _MEMORY.remember_ended)
        self._state.addresses.forget(turn.at_ms - _MEMORY.keep_events_ms)
        return rows

    def release(self) -> None:
        """Let go of the state."""
        self._state.release()


async def _flows_of(state: bytes, registry: FlowRegistry) -> ReplayFlows:
    flows = ReplayFlows(registry)
    for flow, overrides in flows_in(state):
        await flows.load(flow, overrides)
    return flows
