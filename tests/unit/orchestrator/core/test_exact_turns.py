"""Turns of a body that went ahead of its history: they count as they are, right behind their base, or not at all."""

from __future__ import annotations

from tests.unit.orchestrator.core.engine import NOW
from tests.unit.orchestrator.core.test_functions import BEGAN, Body, issued

from stepmesh_broker.protocol.histories import CancelAsked, Kind, Settled
from stepmesh_orchestrator.core.commands import CancelRun

AHEAD = [BEGAN, issued("r/a"), Settled("r/a", NOW - 7, b"1"), issued("r/b"), Settled("r/b", NOW - 5, b"2")]


def test_it_counts_with_its_own_times() -> None:
    body = Body()
    answer = body.turn(*AHEAD, exact=True)
    assert (answer.records, answer.left) == (None, False)
    assert body.history() == AHEAD


def test_it_does_not_count_behind_anything_else_and_the_worker_is_told_what() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/z", Kind.PROMISE))
    body.send(CancelRun(body.run, "enough"))
    before = body.history()
    answer = body.turn(issued("r/a"), Settled("r/a", NOW, b"1"), base=2, exact=True)
    assert answer.records == before[2:] == [CancelAsked(NOW, "enough")]
    assert body.history() == before
    assert body.turn(issued("r/a"), Settled("r/a", NOW, b"1"), base=3, exact=True).records is None, "the next one is as good as any"


def test_told_again_it_is_known() -> None:
    body = Body()
    body.turn(*AHEAD, exact=True)
    again = body.turn(*AHEAD, exact=True, number=1, base=0)
    assert again.records == AHEAD == body.history()


def test_a_time_that_is_yet_to_come_is_none_and_the_worker_is_told() -> None:
    body = Body()
    answer = body.turn(BEGAN, issued("r/a"), Settled("r/a", NOW + 60_000, b"1"), exact=True)
    assert answer.records == body.history() == [BEGAN, issued("r/a"), Settled("r/a", NOW, b"1")]


def test_a_value_that_is_none_is_a_failure_and_the_worker_is_told() -> None:
    body = Body()
    answer = body.turn(BEGAN, issued("r/a"), Settled("r/a", NOW, b"{"), exact=True)
    (settled,) = [record for record in answer.records or [] if isinstance(record, Settled)]
    assert settled.failure is not None
    assert body.history() == answer.records
