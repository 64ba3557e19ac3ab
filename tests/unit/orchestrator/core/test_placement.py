"""Properties of the placement: balanced, stable, and where everybody ends up when each moves what it should."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core.placement import placement

counts = st.integers(1, 64)
names = st.sets(st.text("abcdef0123456789-", min_size=1, max_size=6), min_size=1, max_size=9)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[int, set[str], dict[Partition, str]]:
    """Any leases at all, also of those who are gone."""
    partitions, members = draw(counts), draw(names)
    holders = st.sampled_from(sorted({*members, "gone"}))
    leases = draw(st.dictionaries(st.integers(0, partitions - 1).map(Partition), holders))
    return partitions, members, leases


def sizes(placed: dict[Partition, str], members: set[str]) -> list[int]:
    found = Counter(placed.values())
    return [found[node] for node in members]


@given(clusters())
def test_all_are_placed_on_members_and_shares_differ_by_one_at_most(cluster: tuple[int, set[str], dict[Partition, str]]) -> None:
    partitions, members, leases = cluster
    placed = placement(partitions, members, leases)
    assert sorted(placed) == list(range(partitions))
    assert set(placed.values()) <= members
    assert max(sizes(placed, members)) - min(sizes(placed, members)) <= 1


@given(clusters())
def test_the_order_of_what_is_known_does_not_matter(cluster: tuple[int, set[str], dict[Partition, str]]) -> None:
    partitions, members, leases = cluster
    backwards = dict(reversed(leases.items()))
    assert placement(partitions, members, leases) == placement(partitions, sorted(members, reverse=True), backwards)


@given(clusters())
def test_what_is_placed_stays(cluster: tuple[int, set[str], dict[Partition, str]]) -> None:
    partitions, members, leases = cluster
    placed = placement(partitions, members, leases)
    assert placement(partitions, members, placed) == placed


@given(counts, names)
def test_a_leave_moves_only_what_the_leaver_held(partitions: int, members: set[str]) -> None:
    before = placement(partitions, members, {})
    leaver = min(members)
    after = placement(partitions, members - {leaver}, before)
    assert all(after[partition] == node for partition, node in before.items() if node != leaver) or len(members) == 1


@given(counts, names)
def test_a_join_moves_only_the_newcomers_share(partitions: int, members: set[str]) -> None:
    before = placement(partitions, members, {})
    after = placement(partitions, {*members, "newcomer"}, before)
    moved = [partition for partition in before if after[partition] != before[partition]]
    assert {after[partition] for partition in moved} <= {"newcomer"}
    assert len(moved) <= partitions // (len(members) + 1) + 1


@given(clusters(), st.randoms(use_true_random=False))
def test_members_that_move_one_thing_at_a_time_get_there_and_move_nothing_twice(
    cluster: tuple[int, set[str], dict[Partition, str]], random: Random
) -> None:
    """Each step is of one member, which sees the leases as they are: it gives one away that it should not hold, or takes one that is
    free. However they are interleaved, a partition is given away once at most."""
    partitions, members, leases = cluster
    leases = {partition: node for partition, node in leases.items() if node in members}
    given_away: Counter[Partition] = Counter()
    while leases != (placed := placement(partitions, members, leases)):
        wrong = [partition for partition, node in leases.items() if placed[partition] != node]
        free = [partition for partition in placed if partition not in leases]
        partition = random.choice(wrong + free)
        if partition in leases:
            given_away[partition] += 1
            del leases[partition]
        else:
            leases[partition] = placed[partition]
    assert all(count == 1 for count in given_away.values())


def test_without_members_nothing_is_placed() -> None:
    assert placement(4, set(), {Partition(0): "gone"}) == {}


def test_sixteen_partitions_as_three_nodes_come_and_go() -> None:
    alone = placement(16, {"a"}, {})
    pair = placement(16, {"a", "b"}, alone)
    three = placement(16, {"a", "b", "c"}, pair)
    assert sorted(Counter(pair.values()).values()) == [8, 8]
    assert sorted(Counter(three.values()).values()) == [5, 5, 6]
    assert sum(three[partition] != pair[partition] for partition in pair) == 5
