"""Who of a group answers, who of a pool waits: decided from what was heard, at times that are given."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from stepmesh_broker.kafka.election import EXPIRY_MS, Electorate
from stepmesh_broker.kafka.hunger import AGAIN_S, BELIEVED_S, FIRST_S, Announcer, Guests, Hungry


def test_all_members_that_read_the_same_choose_the_same_one_and_the_load_is_shared() -> None:
    members = [f"m{number}" for number in range(3)]
    views = [Electorate(), Electorate()]
    for view, order in zip(views, (members, members[::-1]), strict=True):
        for member in order:
            view.greet(member, 1_000)
    choices = [views[0].chosen(f"r{number}", 1_001) for number in range(300)]
    assert choices == [views[1].chosen(f"r{number}", 1_001) for number in range(300)]
    assert min(Counter(choices)[member] for member in members) > 60


def test_a_silent_member_is_out_after_its_time_and_one_that_left_at_once() -> None:
    electorate = Electorate()
    assert electorate.greet("a", 0)
    assert not electorate.greet("a", 1)
    assert electorate.chosen("r", EXPIRY_MS) == "a"
    assert electorate.chosen("r", EXPIRY_MS + 1) is None
    assert electorate.greet("a", EXPIRY_MS + 1)
    electorate.leave("a")
    assert electorate.chosen("r", EXPIRY_MS + 1) is None


def test_who_waits_says_so_soon_and_then_less_often() -> None:
    announcer, now, said = Announcer(), 0.0, []
    assert announcer.waits(now) == FIRST_S
    while now < 10:
        now += announcer.waits(now)
        said.append(now)
        announcer.spoke(now)
    pauses = [round(after - before, 6) for before, after in pairwise(said)]
    assert said[0] == FIRST_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == AGAIN_S
    announcer.fed()
    assert round(announcer.waits(now), 6) == FIRST_S


def test_what_was_said_is_believed_once_and_for_a_moment() -> None:
    guests, hungry = Guests(), Hungry("a", 4, (1, 5))
    assert Hungry.decode(hungry.encoded()) == hungry
    assert [Hungry.decode(data) for data in (b"", b"a x 1", b"a 1 ", b"\xff 1 2 3")] == [None] * 4
    guests.heard(hungry, 10.0)
    assert guests.next(10.0 + BELIEVED_S) == hungry
    assert guests.next(10.0) is None
    guests.heard(hungry, 10.0)
    assert guests.next(10.01 + BELIEVED_S) is None
