"""A member over a log of which somebody else removed records."""

from __future__ import annotations

import pytest

from stepmesh_orchestrator.membership.lease_log import Told
from stepmesh_orchestrator.membership.log_membership import LogMembership
from stepmesh_orchestrator.ports import Member, MembershipError


class Emptied:
    """Every record but the newest goes, and no summary stands for them."""

    def __init__(self) -> None:
        self.appended = 0
        self._records: list[Told] = []

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def append(self, data: bytes) -> int:
        self.appended += 1
        self._records = [Told(self.appended + 7, 1.0, data)]
        return self.appended + 7

    async def read(self, first: int, last: int) -> list[Told]:
        return [told for told in self._records if first <= told.position <= last]

    async def drop_before(self, position: int) -> None:
        """Nothing to do."""


async def test_a_log_that_cannot_be_understood_is_told_and_not_written_to_for_ever() -> None:
    log = Emptied()
    with pytest.raises(MembershipError) as problem:
        await LogMembership(log).beat(Member("a", "1"), 10.0)
    assert problem.value.code == "SM-4231"
    assert log.appended < 100
