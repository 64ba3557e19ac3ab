"""A record is let through when it is the next one, or when the next one is really not there."""

from __future__ import annotations

from stepmesh_projector.delivery import SILENT_S, TRIES, Delivery, Verdict


def test_the_next_record_is_taken_and_an_old_one_is_not() -> None:
    delivery = Delivery(5, 0.0)
    assert [delivery.check(offset, 0.0) for offset in (4, 5, 5, 6)] == [Verdict.SEEN, Verdict.TAKE, Verdict.SEEN, Verdict.TAKE]
    assert delivery.expected == 7


def test_a_record_after_a_hole_waits_until_the_hole_was_asked_for_often_enough() -> None:
    delivery = Delivery(5, 0.0)
    for _ in range(TRIES):
        assert delivery.check(9, 0.0) is Verdict.EARLY
        delivery.asked(0.0, early=True)
    assert delivery.check(9, 0.0) is Verdict.TAKE
    assert delivery.check(11, 0.0) is Verdict.EARLY  # the next hole is another one


def test_asking_because_nothing_comes_proves_no_hole() -> None:
    delivery = Delivery(5, 0.0)
    for _ in range(TRIES + 1):
        delivery.asked(0.0, early=False)
    assert delivery.check(9, 0.0) is Verdict.EARLY


def test_what_should_have_come_is_missed_after_a_while() -> None:
    delivery = Delivery(5, 0.0)
    assert not delivery.is_silent(5, SILENT_S + 1)  # nothing is there
    assert not delivery.is_silent(6, 2 * SILENT_S + 1)
    assert delivery.is_silent(6, 2 * SILENT_S + 1.1)
    delivery.asked(2 * SILENT_S + 1.1, early=False)
    assert not delivery.is_silent(6, 2 * SILENT_S + 1.2)
    assert not delivery.is_silent(None, 10 * SILENT_S)  # nobody knows
