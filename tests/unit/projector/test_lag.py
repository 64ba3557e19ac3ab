"""What `stepmesh doctor` says of projectors."""

from __future__ import annotations

from stepmesh_broker.protocol.ids import Partition
from stepmesh_projector.lag import LATE, finding
from stepmesh_projector.progress import Reached
from stepmesh_projector.topic import Extent

P, Q = Partition(0), Partition(1)


def test_the_partition_that_is_furthest_behind_is_told() -> None:
    found = finding({P: Extent(0, 100), Q: Extent(40, 100)}, {P: Reached(50, 94), Q: Reached(50, 89)})
    assert found == ("projectors", "10 of 60 records to read in partition 1, at most", "", "")


def test_one_record_more_than_few_is_late() -> None:
    for behind, late in ((LATE - 1, False), (LATE, True)):
        found = finding({P: Extent(0, 2 * LATE)}, {P: Reached(9, 2 * LATE - behind - 1)})
        assert bool(found.means) is bool(found.fix) is late
        assert found.value.startswith(f"{behind:,} of")


def test_a_journal_that_nobody_follows_is_told_unless_it_is_empty() -> None:
    found = finding({P: Extent(5, 8), Q: Extent(0, 0)}, {})
    assert found.value == "3 of 3 records to read in partition 0, at most, none has kept a checkpoint"
    assert found.means
    assert not finding({P: Extent(0, 0)}, {}).means


def test_records_that_are_gone_are_not_counted() -> None:
    assert finding({P: Extent(90, 100)}, {P: Reached(3, 10)}).value.startswith("10 of 10 records")
