"""UUIDv7 run ids (RFC 9562, section 5.7): 48 bits of Unix time in ms, then random bits. Sorted by time of creation."""

from __future__ import annotations

import os
import time

from stepmesh_broker.protocol.ids import Partition, RunId, partition_of


def new_run_id() -> RunId:
    """A fresh run id in canonical text."""
    ms = (time.time_ns() // 1_000_000) & 0xFFFF_FFFF_FFFF
    tail = int.from_bytes(os.urandom(10), "big")
    value = ms << 80 | 0x7 << 76 | (tail >> 68) << 64 | 0b10 << 62 | tail & 0x3FFF_FFFF_FFFF_FFFF
    digits = f"{value:032x}"
    return RunId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")


def new_run_id_on(partition: Partition, partitions: int) -> RunId:
    """A fresh run id that lives on `partition`; draws about `partitions` ids."""
    while partition_of(run := new_run_id(), partitions) != partition:
        pass
    return run
