"""What partitions tell each other about keys: who wants to begin, who may, who is to end, and who has ended.

Invariant: each may arrive twice, late, and in any order. Same encoding as messages.py. `position`: of the last event of the partition that
says so, which only grows: a return is behind everything that its run ever asked. 0 in letters of a partition to itself,
which are never late, and of releases that did not say it.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import Partition, RunId


class PermitAsk(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="permit_ask"):
    """The run, which lives on `partition`, wants to begin under the key. `rule`: fields of the orchestrator's `Rule`. To the key's home;
    told again after a recovery, and answered again then."""

    key: str
    run: RunId
    partition: Partition
    rule: list[int | str]
    position: int = 0


class PermitGrant(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="permit_grant"):
    """It may begin. A partition that has no such run any more answers with `PermitReturn`."""

    key: str
    run: RunId


class PermitRevoke(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="permit_revoke"):
    """It is to end, as cancelled for this reason. Answered, too, by a `PermitReturn` when it has ended."""

    key: str
    run: RunId
    reason: str


class PermitReturn(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="permit_return"):
    """The run, which lived on `partition`, has ended, or never was. To the key's home."""

    key: str
    run: RunId
    partition: Partition = Partition(0)
    position: int = 0


class PermitCheck(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="permit_check"):
    """Does the run still ask? What it asked may be a late copy. Answered by another `PermitAsk`, with this position at least, or by a
    `PermitReturn`."""

    key: str
    run: RunId
    position: int


PermitLetter = PermitAsk | PermitGrant | PermitRevoke | PermitReturn | PermitCheck
