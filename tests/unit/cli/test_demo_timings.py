"""Facts of a run for the report, and the item that is shown: checked against the recorded run."""

from __future__ import annotations

import pytest
from tests.unit.cli.recording import FILES, Recorded

from stepmesh_broker.protocol.ids import RunId
from stepmesh_cli.demo.history import History
from stepmesh_cli.demo.timings import BINS, Mark, facts, percentile, telling_item


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 3), (1.0, 5)])
def test_percentiles_are_values_that_occurred(share: float, value: float) -> None:
    assert percentile([5, 1, 3, 2, 4], share) == value


def test_the_percentile_of_nothing_is_0() -> None:
    assert percentile([], 0.5) == 0


def test_counts_agree_with_the_ledger(recorded: Recorded) -> None:
    found = facts(recorded.history, recorded.executions, recorded.root)
    assert found["executions"] == len(recorded.executions)
    assert sum(pool["executions"] for pool in found["pools"]) == found["executions"]
    assert sum(step["executions"] for step in found["steps"]) == found["executions"]
    assert {step["step"] for step in found["steps"]} == {"parse", "measure", "docstrings", "embed", "function"}
    assert sum(map(sum, found["timeline"]["pools"].values())) == found["executions"]
    assert all(len(counts) == BINS for counts in found["timeline"]["pools"].values())
    assert found["killed"] == 0


def test_work_is_told_by_item_of_the_batch_with_its_functions(recorded: Recorded) -> None:
    found = facts(recorded.history, recorded.executions, recorded.root)
    busy = found["busy_ms_by_item"]
    assert len(busy) == FILES
    took = sum((one.end_us or 0) - one.start_us for one in recorded.executions) / 1000
    assert sum(busy) == pytest.approx(took, abs=0.01)


def test_retries_name_the_item_and_the_reason(recorded: Recorded) -> None:
    retries = facts(recorded.history, recorded.executions, recorded.root)["retries"]
    failed = [one for one in recorded.executions if one.step == "measure" and one.outcome == "failed"]
    assert sorted(one["item"] for one in retries) == sorted(one.item for one in failed)
    assert all(one["reason"].startswith("a hiccup") for one in retries)


def test_an_execution_that_was_killed_is_counted_apart(recorded: Recorded) -> None:
    cut = [recorded.executions[0]._replace(end_us=None, outcome="killed"), *recorded.executions[1:]]
    found = facts(recorded.history, cut, recorded.root)
    assert (found["killed"], found["executions"]) == (1, len(recorded.executions) - 1)


def test_marks_are_placed_from_the_first_step_on(recorded: Recorded) -> None:
    first = min(one.start_us for one in recorded.executions)
    found = facts(recorded.history, recorded.executions, recorded.root, [Mark(first + 1_500_000, "kill -9 worker")])
    assert found["timeline"]["marks"] == [[1.5, "kill -9 worker"]]


def test_an_empty_history_has_facts_too() -> None:
    found = facts(History(), [], RunId("none"))
    assert (found["executions"], found["pools"], found["busy_ms_by_item"]) == (0, [], [])


def test_the_item_to_show_was_retried_if_one_was(recorded: Recorded) -> None:
    item = telling_item(recorded.history, recorded.root)
    retried = {one["item"] for one in facts(recorded.history, recorded.executions, recorded.root)["retries"]}
    assert 0 <= item < FILES
    assert item in retried or not retried


def test_without_sub_runs_it_is_the_first() -> None:
    assert telling_item(History(), RunId("none")) == 0
