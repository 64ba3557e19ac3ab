"""Names for the strings and numbers that travel: a NewType each, so that a checker tells them apart."""

from __future__ import annotations

import hashlib
import re
from itertools import count
from typing import NewType

RunId = NewType("RunId", str)  # UUIDv7, canonical text
FlowId = NewType("FlowId", str)  # SHA-256, lower-case hex
BlobId = NewType("BlobId", str)  # SHA-256, lower-case hex
StepId = NewType("StepId", str)
WorkerId = NewType("WorkerId", str)
Pool = NewType("Pool", str)  # a named queue of tasks with its consumer group
Namespace = NewType("Namespace", str)  # tenant
Partition = NewType("Partition", int)
Position = NewType("Position", int)  # of a message in a stream; grows, starts at 1; 0 is "before the first"
_RUN = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def partition_of(key: str, partitions: int) -> Partition:
    """The partition that owns a root run id or a run key: stable over processes, versions and machines."""
    return Partition(int.from_bytes(hashlib.blake2s(key.encode(), digest_size=4).digest(), "big") % partitions)


def home_of(name: str, key: str, partitions: int) -> Partition:
    """The partition that keeps the events of an address. No name holds a slash, so no two addresses are one here."""
    return partition_of(f"{name}/{key}", partitions)


def scope_of(namespace: str, key: str) -> str:
    """In which namespace an address is one of its own: a run's own address, whose key is its id, is the same in all of them."""
    return "" if _RUN.fullmatch(key) else namespace


def content_id(content: bytes) -> str:
    """Lower-case hex SHA-256: the id of a flow document or a blob."""
    return hashlib.sha256(content).hexdigest()


def child_run_id(parent: RunId, discriminator: str) -> RunId:
    """The id of a sub-run, the same whenever it is derived again: the parent's time, then a hash (UUIDv7 layout, RFC 9562)."""
    digest = hashlib.sha256(f"{parent}/{discriminator}".encode()).hexdigest()
    variant = "89ab"[int(digest[3], 16) & 3]
    return RunId(f"{parent[:13]}-7{digest[:3]}-{variant}{digest[4:7]}-{digest[7:19]}")


def scheduled_run_id(about: str, due_ms: int, partition: Partition, partitions: int) -> RunId:
    """The id of the run for a due time, the same whenever it is derived again: that time, then a hash, such that it lives on `partition`
    (UUIDv7 layout). `about`: what else makes it unique."""
    time = f"{due_ms & 0xFFFF_FFFF_FFFF:012x}"
    for nonce in count():
        digest = hashlib.sha256(f"{about}/{due_ms}/{nonce}".encode()).hexdigest()
        variant = "89ab"[int(digest[3], 16) & 3]
        run = RunId(f"{time[:8]}-{time[8:]}-7{digest[:3]}-{variant}{digest[4:7]}-{digest[7:19]}")
        if partition_of(run, partitions) == partition:
            return run
    raise AssertionError("there is a nonce for every partition")
