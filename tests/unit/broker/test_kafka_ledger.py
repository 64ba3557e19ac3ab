"""The ledger of a partition: what is committed, what the next owner learns, and a floor that is never too high."""

from __future__ import annotations

import random

import pytest

from stepmesh_broker.kafka.ledger import MAX_METADATA, Frame, Ledger, Mark
from stepmesh_broker.kafka.records import position_at
from stepmesh_broker.protocol.ids import Position

NOW, PATIENCE_S, WINDOW_MS = 100.0, 30.0, 1_000.0


def ledger(committed: int = 0, mark: Mark | None = None, owner: str = "me") -> Ledger:
    return Ledger(owner, committed, mark, NOW, PATIENCE_S, WINDOW_MS)


def read(into: Ledger, *offsets: int, message_id: str = "", origin: int = 0, handed: int = 0) -> list[Frame | None]:
    return [into.arrived(offset, 1_000 + offset, message_id, origin, handed, b"%d" % offset) for offset in offsets]


def frames(into: Ledger, *offsets: int) -> list[Frame]:
    return [frame for frame in read(into, *offsets) if frame is not None]


def test_the_committed_offset_follows_what_is_settled() -> None:
    mine = ledger()
    first, second, third = frames(mine, 0, 1, 2)
    for frame in (first, second, third):
        mine.hand_out(frame)
    mine.finish(second)
    assert (mine.committed, mine.mark(NOW)[2:]) == (0, (3, 2, 2, 0, ((1, 1),)))
    mine.finish(first)
    assert (mine.committed, mine.mark(NOW)[2:]) == (2, (3, 1, 1, 0, ()))


def test_a_frame_whose_worker_is_at_work_holds_no_offset_but_the_floor() -> None:
    mine = ledger()
    first, second = frames(mine, 0, 1)
    mine.hand_out(first)
    mine.hand_out(second)
    mine.keep(first)
    mine.finish(second)
    mark = mine.mark(NOW)
    assert (mine.committed, mark.in_hand, mark.open) == (2, 1, 0)
    assert mark.floor < first.position
    mine.finish(first)
    assert mine.mark(NOW).floor >= first.position


def test_the_next_owner_skips_what_was_done_and_knows_what_was_handed_out() -> None:
    mine = ledger()
    held = frames(mine, 0, 1, 2, 3)
    for frame in held[:3]:
        mine.hand_out(frame)
    mine.finish(held[1])
    mark = Mark.parse(mine.mark(NOW).text())
    theirs = ledger(mine.committed, mark, "they")
    got = {frame.offset: frame.handed for frame in read(theirs, 0, 1, 2, 3) if frame is not None}
    assert got == {0: 1, 2: 1, 3: 0}


def test_a_partition_that_goes_leaves_nothing_in_hand_to_the_next_owner() -> None:
    mine = ledger()
    held, _waits = frames(mine, 0, 1)
    mine.hand_out(held)
    assert mine.release() == []
    theirs = ledger(mine.committed, mine.mark(NOW), "they")
    assert [frame.offset for frame in read(theirs, 1) if frame is not None] == [1]
    assert theirs.mark(NOW).in_hand == 1
    assert theirs.mark(NOW).floor < held.position
    assert theirs.mark(NOW + PATIENCE_S).in_hand == 0


def test_a_frame_that_is_being_written_anew_is_not_left_to_the_next_owner() -> None:
    mine = ledger()
    (moving,) = frames(mine, 0)
    mine.depart(moving)
    mine.release()
    assert mine.committed == 1


def test_a_kept_frame_that_came_back_is_lost_with_its_partition_unless_it_is_written_anew() -> None:
    mine = ledger()
    (frame,) = frames(mine, 0)
    mine.hand_out(frame)
    mine.keep(frame)
    mine.take_back(frame)
    assert mine.mark(NOW).in_hand == 1
    assert mine.release() == [frame]


def test_a_copy_holds_the_floor_where_its_first_was() -> None:
    mine, theirs = ledger(), ledger(owner="they")
    first, _second = frames(mine, 0, 1)
    mine.move(first, NOW)
    assert mine.mark(NOW).floor < first.position
    (copy,) = read(theirs, 0, origin=first.position, handed=1)
    assert copy is not None
    assert (copy.position, copy.handed, theirs.mark(NOW).floor) == (first.position, 1, first.position - 1)


def test_the_same_id_within_the_window_is_a_copy() -> None:
    mine = ledger()
    assert [frame is not None for frame in read(mine, 0, 1, message_id="a")] == [True, False]
    assert [frame is not None for frame in read(mine, 999, message_id="a")] == [False]
    assert [frame is not None for frame in read(mine, 1_000, message_id="a")] == [True]


def test_records_that_are_gone_are_not_waited_for() -> None:
    mine = ledger()
    (frame,) = frames(mine, 50)
    mine.hand_out(frame)
    mine.finish(frame)
    assert mine.committed == 51


def test_a_mark_survives_its_text_and_no_other_text_is_one() -> None:
    mark = Mark("me", Position(7), 9, 2, 1, 3, ((1, 1), (4, 6)))
    assert Mark.parse(mark.text()) == mark
    assert Mark.parse(Mark("me", Position(0), 0, 0, 0).text()) == Mark("me", Position(0), 0, 0, 0)
    for text in ("", "1 me", "2 me 1 1 1 1 1 ", "1 me x 1 1 1 1 "):
        assert Mark.parse(text) is None


@pytest.mark.parametrize("count", [300, 3_000])
def test_a_mark_has_a_place_in_commit_metadata(count: int) -> None:
    text = Mark("me", Position(7), 9, 2, 1, 0, tuple((2 * number, 2 * number) for number in range(1, count))).text()
    assert len(text) <= MAX_METADATA
    parsed = Mark.parse(text)
    assert parsed is not None
    assert (len(parsed.settled) == count - 1) == (count == 300)


@pytest.mark.parametrize("seed", range(30))
def test_over_any_history_nothing_is_lost_and_the_floor_is_below_what_is_undone(seed: int) -> None:
    chance = random.Random(seed)
    mine, now, undone, total = ledger(), NOW, set(range(60)), 60
    waiting: list[Frame] = []
    held: list[Frame] = []
    while undone:
        action = chance.random()
        if action < 0.3 and mine.next < total:
            waiting += frames(mine, mine.next)
        elif action < 0.5 and waiting:
            held.append(waiting.pop(0))
            mine.hand_out(held[-1])
        elif action < 0.6 and held:
            mine.keep(chance.choice(held))
        elif action < 0.9 and held:
            done = held.pop(chance.randrange(len(held)))
            mine.finish(done)
            undone.discard(done.offset)
        elif action < 0.93:  # the owner dies: what was not committed past comes again
            undone -= mine.kept.keys()  # their leases take care of them
            mine, waiting, held = ledger(mine.committed, mine.mark(now), f"{action}"), [], []
        now += 0.01
        assert mine.committed <= min(undone - {frame.offset for frame in held}, default=total)
        assert mine.mark(now).floor < position_at(1_000 + min(undone, default=total))
