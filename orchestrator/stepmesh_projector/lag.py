"""How far projectors are behind the journal's topic, and what the topic keeps for them: for `stepmesh doctor`. Only asks."""

from __future__ import annotations

from stepmesh_broker.durability import Finding
from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.runtime.external_projector import MAX_BEHIND
from stepmesh_projector import topic
from stepmesh_projector.progress import Progress, Reached
from stepmesh_projector.topic import Extent

LATE = MAX_BEHIND // 10
"""Records of one partition from which on somebody should look after the projectors."""
_MEANS = (
    f"with --projection external what ended since is in no list, the journal keeps all of it, and {MAX_BEHIND:,} frames behind no new run"
    " is accepted"
)


async def examine(broker: str, store: str, namespace: Namespace) -> list[Finding]:
    """Raises `ProjectorError`, `StoreError`."""
    progress = Progress(store, namespace)
    await progress.open()
    try:
        reached = await progress.all()
    finally:
        await progress.close()
    settings = KafkaSettings.parse(broker, namespace)
    return [finding(await topic.extents(settings, await topic.find(settings, topic.journal_of(namespace))), reached)]


def finding(extents: dict[Partition, Extent], reached: dict[Partition, Reached]) -> Finding:
    """About the partition that is furthest behind."""
    behind = {partition: extent.end - _next(extent, reached.get(partition)) for partition, extent in extents.items()}
    worst = max(behind, key=behind.__getitem__)
    found = f"{behind[worst]:,} of {extents[worst].end - extents[worst].begin:,} records to read in partition {worst}, at most"
    if behind[worst] and worst not in reached:
        return Finding("projectors", f"{found}, none has kept a checkpoint", _MEANS, "start `stepmesh projector`, if lists are left to it")
    late = behind[worst] >= LATE
    return Finding("projectors", found, _MEANS if late else "", "start `stepmesh projector`, or more of them" if late else "")


def _next(extent: Extent, reached: Reached | None) -> int:
    """Offset of the next record to read."""
    return extent.begin if reached is None else max(extent.begin, reached.position + 1)
