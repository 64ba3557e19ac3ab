"""What partitions tell each other about keys: who wants to begin, who may, who is to end, and who has ended.

Invariant: each may arrive twice, late, and in any order. Same encoding as messages.py.
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
    """The run has ended, or never was. To the key's home."""

    key: str
    run: RunId


PermitLetter = PermitAsk | PermitGrant | PermitRevoke | PermitReturn
