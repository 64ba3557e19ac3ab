"""The Store port in memory: for tests, simulations and `--journal memory`. Gone with the process.

Keeps every rule of the durable backends, so that the contract suite runs over it; must not know SQL or files.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepmesh_broker.protocol.ids import BlobId, FlowId, Partition, RunId
from stepmesh_orchestrator.ports import BlobRecord, FlowRecord, ItemRow, RunGone, RunQuery, RunRow


class MemoryStore:
    """Several users share one instance, as they would share a file."""

    def __init__(self) -> None:
        self._flows: dict[FlowId, FlowRecord] = {}
        self._blobs: dict[BlobId, BlobRecord] = {}
        self._runs: dict[RunId, RunRow] = {}
        self._items: dict[RunId, dict[int, ItemRow]] = {}
        self._projected: dict[Partition, int] = {}

    async def open(self) -> None:
        """See the port."""

    async def close(self) -> None:
        """See the port. What is stored stays, for the next `open`."""

    async def put_flow(self, flow: FlowRecord) -> None:
        """See the port."""
        self._flows.setdefault(flow.id, flow)

    async def get_flow(self, flow: FlowId) -> FlowRecord | None:
        """See the port."""
        return self._flows.get(flow)

    async def flows_named(self, name: str, limit: int) -> Sequence[FlowRecord]:
        """See the port."""
        return sorted((one for one in self._flows.values() if one.name == name), key=lambda one: (-one.created_ms, one.id))[:limit]

    async def delete_flow(self, flow: FlowId) -> bool:
        """See the port."""
        known = self._flows.pop(flow, None) is not None
        blob = self._blobs.get(BlobId(flow))
        if blob is not None and blob.kind == "flow":
            del self._blobs[blob.id]
            known = True
        return known

    async def put_blob(self, blob: BlobRecord) -> None:
        """See the port."""
        self._blobs.setdefault(blob.id, blob)

    async def get_blob(self, blob: BlobId) -> BlobRecord | None:
        """See the port."""
        return self._blobs.get(blob)

    async def project(
        self, partition: Partition, sequence: int, runs: Sequence[RunRow], items: Sequence[ItemRow], gone: Sequence[RunGone] = ()
    ) -> None:
        """See the port."""
        if sequence < self._projected.get(partition, 0):
            return
        self._projected[partition] = sequence
        for run in runs:
            self._runs[run.run] = run
        for item in items:
            self._items.setdefault(item.run, {})[item.item] = item
        for tree in gone:
            for name in [run.run for run in self._runs.values() if run.root == tree.root]:
                del self._runs[name]
                self._items.pop(name, None)

    async def projected(self, partition: Partition) -> int:
        """See the port."""
        return self._projected.get(partition, 0)

    async def get_run(self, run: RunId) -> RunRow | None:
        """See the port."""
        return self._runs.get(run)

    async def list_runs(self, query: RunQuery) -> Sequence[RunRow]:
        """See the port."""
        found = [run for run in self._runs.values() if _matches(run, query)]
        found.sort(key=lambda run: (run.created_ms, run.run), reverse=True)
        return found[query.offset : query.offset + query.limit]

    async def get_items(self, run: RunId, first: int = 0, limit: int | None = None) -> Sequence[ItemRow]:
        """See the port."""
        items = self._items.get(run, {})
        return [items[index] for index in sorted(items) if index >= first][:limit]


def _matches(run: RunRow, query: RunQuery) -> bool:
    return (
        run.namespace == query.namespace
        and query.status in (None, run.status)
        and query.flow_name in (None, run.flow_name)
        and query.root in (None, run.root)
        and query.parent in (None, run.parent)
        and not (query.roots_only and run.root != run.run)
        and (query.max_depth is None or run.depth <= query.max_depth)
    )
