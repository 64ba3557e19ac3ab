"""UUIDv7 run ids (RFC 9562, section 5.7): Unix time in ms and, in the next 12 bits, its fraction (section 6.2, method 3); then 62 random
bits. The ids that one process makes are sorted in the order of their making, also within a millisecond and when the clock steps back."""

from __future__ import annotations

import os
import threading
import time

from stepmesh_broker.protocol.ids import Partition, RunId, partition_of

_FRACTION = 4096
"""Ticks in a millisecond: what 12 bits hold, about 244 ns each."""
_making = threading.Lock()
_last = 0


def new_run_id() -> RunId:
    """A fresh run id in canonical text."""
    ticks = _next_tick()
    value = ticks // _FRACTION << 80 | 0x7 << 76 | ticks % _FRACTION << 64 | 0b10 << 62 | int.from_bytes(os.urandom(8), "big") >> 2
    digits = f"{value:032x}"
    return RunId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")


def _next_tick() -> int:
    global _last
    with _making:
        _last = max(time.time_ns() * _FRACTION // 1_000_000, _last + 1)
        return _last


def new_run_id_on(partition: Partition, partitions: int) -> RunId:
    """A fresh run id that lives on `partition`; draws about `partitions` ids."""
    while partition_of(run := new_run_id(), partitions) != partition:
        pass
    return run
