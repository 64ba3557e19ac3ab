"""The audit holds for an honest run, and each of its checks finds the doctored journal or ledger that it is there for."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.cli.recording import FILES, Recorded

from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_cli.demo.audit import SHOWN, TOLERANCE_MS, Check, audit, repeated
from stepmesh_cli.demo.history import Entry, History
from stepmesh_cli.demo.ledger import Execution
from stepmesh_orchestrator.core.events import ItemEnded, ItemStarted, RunCreated, RunEnded, StepDispatched, StepSucceeded

RUNS, ITEMS, OUTCOMES, DISPATCHES, WITNESSED, NOT_AGAIN, NOT_FAILED = (
    "every run ended, once",
    "every item ended, once",
    "every step has one outcome",
    "every attempt was dispatched once, none after the outcome",
    "every result comes from an execution in the ledger",
    "no completed step ran again",
    "no item failed for a kill",
)


def broken(history: History, executions: list[Execution]) -> dict[str, Check]:
    """The checks that do not hold, by name."""
    return {check.name: check for check in audit(history, executions) if not check.holds}


def test_an_honest_run_passes_every_check(recorded: Recorded) -> None:
    checks = audit(recorded.history, recorded.executions)
    assert [check.name for check in checks] == [RUNS, ITEMS, OUTCOMES, DISPATCHES, WITNESSED, NOT_AGAIN, NOT_FAILED]
    assert all(check.holds for check in checks), checks
    assert checks[1].counted > FILES


def test_nothing_to_look_at_is_no_proof() -> None:
    assert set(broken(History(), [])) == {RUNS, ITEMS, OUTCOMES, DISPATCHES, WITNESSED, NOT_AGAIN, NOT_FAILED}


@pytest.mark.parametrize(("kind", "check"), [(RunEnded, RUNS), (ItemEnded, ITEMS), (ItemStarted, ITEMS), (StepSucceeded, OUTCOMES)])
def test_an_event_that_is_missing_is_found(recorded: Recorded, kind: type[RunEnded], check: str) -> None:
    assert check in broken(recorded.without(recorded.first(kind)), recorded.executions)


@pytest.mark.parametrize(
    ("kind", "check"), [(RunCreated, RUNS), (RunEnded, RUNS), (ItemEnded, ITEMS), (StepSucceeded, OUTCOMES), (StepDispatched, DISPATCHES)]
)
def test_an_event_that_is_there_twice_is_found(recorded: Recorded, kind: type[RunEnded], check: str) -> None:
    entry = recorded.first(kind)
    assert check in broken(recorded.doctored(*recorded.history.entries, entry), recorded.executions)


def test_anything_after_the_end_of_a_run_is_found(recorded: Recorded) -> None:
    late = recorded.first(StepDispatched)
    found = broken(recorded.doctored(*recorded.history.entries, late), recorded.executions)
    assert any("after run" in finding for finding in found[RUNS].findings)


def test_a_run_key_with_two_runs_is_found(recorded: Recorded) -> None:
    entry = recorded.first(RunCreated)
    other = msgspec.structs.replace(entry.event, run="another")
    history = recorded.doctored(*recorded.history.entries)
    history.created = {**history.created, other.run: other}
    assert "run key recorded made 2 runs" in broken(history, recorded.executions)[RUNS].findings


def test_an_attempt_left_out_is_found(recorded: Recorded) -> None:
    entry = recorded.first(StepDispatched)
    skipped = entry._replace(event=msgspec.structs.replace(entry.event, attempt=2))
    entries = [skipped if one is entry else one for one in recorded.history.entries]
    assert DISPATCHES in broken(recorded.doctored(*entries), recorded.executions)


def test_a_dispatch_after_the_outcome_is_found(recorded: Recorded) -> None:
    done = recorded.first(StepSucceeded)
    event = StepDispatched(done.event.run, done.event.item, done.event.step, 2)
    entries = [*recorded.history.entries, Entry(recorded.history.entries[-1].sequence + 1, done.at_ms, event)]
    finding = broken(recorded.doctored(*entries), recorded.executions)[DISPATCHES].findings
    assert any("after its outcome" in one for one in finding)


def test_a_result_that_nobody_made_is_found(recorded: Recorded) -> None:
    gone = next(one for one in recorded.executions if one.outcome == "ok")
    assert set(broken(recorded.history, [one for one in recorded.executions if one is not gone])) == {WITNESSED}


def test_a_result_of_an_execution_that_was_killed_is_found(recorded: Recorded) -> None:
    some = next(one for one in recorded.executions if one.outcome == "ok")
    cut = [one._replace(end_us=None, outcome="killed") if one is some else one for one in recorded.executions]
    assert set(broken(recorded.history, cut)) == {WITNESSED}


@pytest.mark.parametrize(("late_ms", "found"), [(TOLERANCE_MS, False), (TOLERANCE_MS + 1, True)])
def test_a_completed_step_that_runs_again_is_found_beyond_the_tolerance(recorded: Recorded, late_ms: int, found: bool) -> None:
    done = recorded.first(StepSucceeded)
    step = recorded.history.step_id(done.event.run, done.event.step)
    start_us = (done.at_ms + late_ms) * 1000
    again = Execution(99, "cpu", done.event.run, done.event.item, step, 1, start_us, start_us + 5, "dropped")
    assert (NOT_AGAIN in broken(recorded.history, [*recorded.executions, again])) is found


def test_an_item_that_failed_is_found(recorded: Recorded) -> None:
    entry = recorded.first(ItemEnded)
    failed = msgspec.structs.replace(entry.event, output=None, failure=Failure(ErrorCode.UNREACHABLE, "worker w was silent"))
    entries = [entry._replace(event=failed) if one is entry else one for one in recorded.history.entries]
    assert "worker w was silent" in broken(recorded.doctored(*entries), recorded.executions)[NOT_FAILED].findings[0]


def test_a_flood_of_findings_is_cut(recorded: Recorded) -> None:
    check = broken(recorded.history, [])[WITNESSED]
    assert len(check.findings) == SHOWN + 1
    assert check.findings[-1].startswith("… and ")


def test_code_that_began_twice_for_one_attempt_is_counted(recorded: Recorded) -> None:
    some = recorded.executions[0]
    assert repeated(recorded.executions) == 0
    assert repeated([*recorded.executions, some._replace(pid=2)]) == 1
