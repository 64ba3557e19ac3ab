"""What happened at gates, to permits and to breakers; the rules of events.py hold, which joins these to its union."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_orchestrator.core.gates import Gate, Rule

HOLDS, REVOKED, GONE_AWAY = "holds", "revoked", "gone"


class RunHeld(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=35):
    """The run, created just now, begins when it has passed these gates, one after the other."""

    run: RunId
    gates: list[Gate]


class RunReleased(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=36):
    """The gate at which the run stood is open."""

    run: RunId
    key: str


class PermitAsked(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=37):
    """A run, or an attempt of a step, perhaps of another partition, wants to begin under a key whose home is here. From here on this is
    the key's rule. `position`, if not 0: how far its partition was. Who is known already has asked again, and only that changes."""

    run: ClassVar[RunId] = RunId("")
    key: str
    rule: Rule
    asker: RunId
    partition: Partition
    position: int = 0


class PermitMoved(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=38):
    """`to`: it holds a permit from now on, is revoked, or is gone. `position`, if not 0: what `partition` asked before that may be of runs
    that are over."""

    run: ClassVar[RunId] = RunId("")
    key: str
    asker: RunId
    to: str
    partition: Partition = Partition(0)
    position: int = 0


class BreakerMoved(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=39):
    """Nothing of the component is dispatched until `due_ms`, and one attempt then. `pause_ms` 0: it is as ever again."""

    run: ClassVar[RunId] = RunId("")
    name: str
    pause_ms: int = 0
    due_ms: int = 0


class PermitDoubted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=50):
    """What a run, or an attempt of a step, of another partition asked may be a late copy: its partition is asked back."""

    run: ClassVar[RunId] = RunId("")
    key: str
    asker: RunId
    partition: Partition


GateEvent = RunHeld | RunReleased | PermitAsked | PermitMoved | BreakerMoved | PermitDoubted
