"""What is particular to the members' file: restarts of the machine, damage, locks, several processes."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.membership import SqliteMembership
from stepmesh_orchestrator.ports import Member, MembershipError, MembershipFull

P = Partition(1)
A, B = Member("a", "1"), Member("b", "1")

TAKE = """
import asyncio, sys
from pathlib import Path
from stepmesh_orchestrator.membership import SqliteMembership
from stepmesh_orchestrator.ports import Member

async def main():
    membership = SqliteMembership(Path(sys.argv[1]), busy_seconds=20)
    await membership.open()
    await membership.beat(Member(sys.argv[2], "1"), 3600)
    print(sum([await membership.take(partition, sys.argv[2], 3600) for partition in range(50)]))
    await membership.close()

asyncio.run(main())
"""


class Time:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def opened(path: Path, time: Time) -> SqliteMembership:
    membership = SqliteMembership(path, now=time)
    await membership.open()
    return membership


async def test_what_was_there_before_the_machine_started_anew_is_over(tmp_path: Path) -> None:
    before = await opened(tmp_path / "members.db", Time(1_000_000.0))
    await before.beat(A, 3.0)
    await before.take(P, A.node, 3.0)
    await before.close()
    after = await opened(tmp_path / "members.db", Time(10.0))
    found = await after.beat(B, 3.0)
    assert (dict(found.members), dict(found.leases)) == ({"b": B}, {})
    assert await after.take(P, B.node, 3.0)
    await after.close()


@pytest.mark.parametrize(("later_s", "there"), [(2.99, {"a", "b"}), (3.0, {"b"})])
async def test_a_time_to_live_is_over_at_its_end(tmp_path: Path, later_s: float, there: set[str]) -> None:
    time = Time(100.0)
    membership = await opened(tmp_path / "members.db", time)
    await membership.beat(A, 3.0)
    time.now += later_s
    assert set((await membership.beat(B, 3.0)).members) == there
    await membership.close()


async def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "members.db"
    path.write_bytes(b"this is no database, " * 400)
    with pytest.raises(MembershipError, match="contents are damaged") as raised:
        await SqliteMembership(path).open()
    assert (raised.value.code, raised.value.retryable) == ("SM-4200", True)
    assert "delete this file" in raised.value.hint


async def test_a_lock_that_stays_is_an_error_that_a_later_call_may_not_have(tmp_path: Path) -> None:
    path = tmp_path / "members.db"
    membership = SqliteMembership(path, busy_seconds=0.05)
    await membership.open()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(MembershipError, match="another process holds its lock"):
            await membership.beat(A, 3.0)
    assert set((await membership.beat(A, 3.0)).members) == {"a"}
    await membership.close()


async def test_a_new_file_that_another_process_is_about_to_write_is_waited_for(tmp_path: Path) -> None:
    """SQLite itself refuses the switch to its log at once then."""
    path = tmp_path / "members.db"
    membership = SqliteMembership(path, busy_seconds=20)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        opening = asyncio.create_task(membership.open())
        await asyncio.wait([opening], timeout=0.2)
        assert not opening.done()
        other.execute("COMMIT")
        await opening
    assert set((await membership.beat(A, 3.0)).members) == {"a"}
    await membership.close()


async def test_but_not_for_longer_than_is_said(tmp_path: Path) -> None:
    path = tmp_path / "members.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(MembershipError, match="another process holds its lock"):
            await SqliteMembership(path, busy_seconds=0.05).open()


async def test_after_closing_a_call_is_refused(tmp_path: Path) -> None:
    membership = await opened(tmp_path / "members.db", Time(1.0))
    await membership.close()
    with pytest.raises(MembershipError, match="closed"):
        await membership.beat(A, 3.0)


async def test_processes_share_it(tmp_path: Path) -> None:
    path = str(tmp_path / "members.db")
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", TAKE, path, node, stdout=asyncio.subprocess.PIPE) for node in "abc"
    ]
    took = [int((await process.communicate())[0]) for process in processes]
    assert sum(took) == 50


async def test_a_file_without_room_says_so_and_goes_on_when_there_is(tmp_path: Path) -> None:
    membership = await opened(tmp_path / "members.db", Time(1.0))
    await membership.beat(A, 3.0)
    thread = membership._thread
    pages: int = await thread.call(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await thread.call(lambda connection: connection.execute(f"PRAGMA max_page_count={pages}"))
    with pytest.raises(MembershipFull, match="free some space"):
        await membership.beat(Member("b" * 10_000, "1"), 3.0)
    assert set((await membership.beat(A, 3.0)).members) == {"a"}
    await thread.call(lambda connection: connection.execute("PRAGMA max_page_count=1000"))
    assert len((await membership.beat(Member("b" * 10_000, "1"), 3.0)).members) == 2
    await membership.close()
