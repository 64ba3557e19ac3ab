"""What a log tells of members and leases: everybody who reads it comes to the same, from the beginning or from a summary on."""

from __future__ import annotations

import random

import pytest

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.membership.lease_log import Act, Deed, Leases, Told, encode
from stepmesh_orchestrator.ports import Member

P = Partition(1)


def told(*deeds: tuple[float, Deed]) -> list[Told]:
    return [Told(position, at_s, encode(deed)) for position, (at_s, deed) in enumerate(deeds, 1)]


def state(records: list[Told]) -> Leases:
    leases = Leases.told_by(records)
    assert leases is not None
    return leases


def take(node: str, ttl_s: float = 10.0) -> Deed:
    return Deed(Act.TAKE, node, ttl_s, P)


def test_the_first_take_of_what_is_free_holds_it() -> None:
    leases = state(told((1, take("a")), (1, take("b")), (2, take("b"))))
    assert (leases.holds(P, "a"), leases.holds(P, "b")) == (True, False)


@pytest.mark.parametrize(("at_s", "holder"), [(11.0, "a"), (11.001, "b")])
def test_a_lease_is_over_when_the_clock_is_past_it(at_s: float, holder: str) -> None:
    assert state(told((1, take("a")), (at_s, take("b")))).holds(P, holder)


def test_a_beat_holds_what_is_held_and_brings_nothing_back() -> None:
    beat = Deed(Act.BEAT, "a", 100.0, release="1")
    assert state(told((1, take("a")), (11, beat), (50, take("b")))).holds(P, "a")
    assert state(told((1, take("a")), (11.1, beat), (50, take("b")))).holds(P, "b")


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    assert state(told((100, take("a")), (50, take("b")), (105, take("b")))).holds(P, "a")


def test_what_cannot_be_read_says_nothing() -> None:
    records = told((1, take("a")), (2, take("b")))
    assert state([records[0], Told(2, 2.0, b"\xc1"), Told(3, 3.0, records[1].data)]).holds(P, "a")


def test_without_its_begin_and_a_summary_a_log_tells_nothing() -> None:
    assert Leases.told_by(told((1, take("a")), (2, take("b")))[1:]) is None


@pytest.mark.parametrize("seed", range(30))
def test_who_begins_at_a_summary_comes_to_the_same(seed: int) -> None:
    dice = random.Random(seed)
    whole = Leases()
    records: list[Told] = []
    now = 0.0
    for position in range(1, 200):
        now += dice.choice((0.0, 0.1, 1.0, 3.0))
        if dice.random() < 0.1:
            summary = whole.summary()
            if dice.random() < 0.5:
                keep_from = whole.position + 1
                records.append(Told(position, now, encode(summary)))
                records = [record for record in records if record.position >= keep_from]
            else:
                records.append(Told(position, now, encode(summary)))
        else:
            act = dice.choice((Act.BEAT, Act.BEAT, Act.TAKE, Act.TAKE, Act.TAKE, Act.RELEASE, Act.LEAVE))
            deed = Deed(act, dice.choice("abc"), dice.choice((1.0, 5.0)), dice.randrange(3), "1", dice.random() < 0.2)
            records.append(Told(position, now, encode(deed)))
        whole.hear(records[-1])
        fresh = state(records)
        assert (fresh.members(), fresh.position) == (whole.members(), position)
    assert isinstance(next(iter(whole.members().members.values()), Member("", "")), Member)


def test_of_two_summaries_the_one_that_stands_for_more_counts() -> None:
    """Two members find the log long at once; the summary of the one that read less may lie behind, and what only the other's stands for
    is forgotten."""
    records = told((1, take("a")), (2, take("b")), (3, Deed(Act.BEAT, "a", 10.0)))
    early, late = state(records[:2]), state(records)
    records += [Told(4, 4.0, encode(late.summary())), Told(5, 5.0, encode(early.summary()))]
    assert state(records[3:]).holds(P, "a")
    assert state(records[2:]).members() == state(records).members()
