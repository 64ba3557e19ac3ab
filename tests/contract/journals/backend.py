"""What the contract of the Journal port asks of a backend beside the port: opening it anew, and damaging what it stores."""

from __future__ import annotations

from typing import Any, Protocol

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.ports import Journal


class Backend(Protocol):
    """A journal; `durability` is what it must declare, `survives` a part of what it must say of it. `fields` are those of `StoredFrame` and
    `StoredSnapshot`.
    """

    journal: Journal
    durability: str
    survives: str
    lost_end: str
    """Why the loss of the last frame alone does not show; empty when it does."""

    async def reopened(self) -> Journal: ...

    async def put_frame(self, partition: Partition, sequence: int, **fields: Any) -> None: ...

    async def drop_frame(self, partition: Partition, sequence: int) -> None: ...

    async def put_snapshot(self, partition: Partition, sequence: int, **fields: Any) -> None: ...
