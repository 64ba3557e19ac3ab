"""In-process broker with real semantics, for tests, simulation and single-process demos."""

from stepmesh_broker.memory.bus import MemoryBus
from stepmesh_broker.memory.clock import Clock, LoopClock, Timer, VirtualClock
from stepmesh_broker.memory.transport import MemoryBroker

__all__ = ["Clock", "LoopClock", "MemoryBroker", "MemoryBus", "Timer", "VirtualClock"]
