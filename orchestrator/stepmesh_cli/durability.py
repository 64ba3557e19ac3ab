"""What a deployment declares that a returned submit survives, against what its journal gives.

The words are promises of the journal alone. `process` is the least: a server that keeps the journal survives more, and the journal's own
words say what. Invariant: a deployment that declares more than it gets does not start. `fsync` and `replicated` are two promises, neither
of which holds the other: what is on one disk dies with it, what several machines hold in memory dies when the power of all of them fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stepmesh_cli.addresses import shown
from stepmesh_cli.errors import DurabilityLess

if TYPE_CHECKING:
    from stepmesh_orchestrator.ports import Journal

Durability = Literal["fsync", "replicated", "process"]
_LOST = {
    "fsync": "the last moments before a power loss",
    "replicated": "every run, when the machine or the disk that holds the journal is gone",
}
_FIX = {
    "fsync": "sqlite, postgres with fsync and synchronous_commit on, redis with appendfsync always, or nats with sync_interval always",
    "replicated": "kafka with 3 replicas and min.insync.replicas 2, or nats with replicas=3",
}


def require(declared: Durability | None, journal: Journal, name: str) -> None:
    """Raises `DurabilityLess`."""
    given = journal.durability
    if declared in (None, "process", given):
        return
    lost = "any run, when this process ends" if name == "memory" else _LOST[declared]
    raise DurabilityLess(
        f"the durability {declared} is declared, and the journal {shown(name)} gives {given}, which survives {journal.survives};"
        f" it does not promise to keep {lost}",
        hint=f"a journal that gives {declared}: {_FIX[declared]}; or declare {given}",
    )
