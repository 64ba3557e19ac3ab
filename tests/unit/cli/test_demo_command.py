"""`stepmesh demo`: what it refuses, and what it says of a chaos run that holds and of one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepmesh_cli.demo import chaos, command
from stepmesh_cli.demo.audit import Check
from stepmesh_cli.demo.chaos import Killed, Outcome
from stepmesh_cli.demo.stage import Stage
from stepmesh_cli.errors import CommandError, NotAvailable


@pytest.mark.parametrize("seeds", ["", "5", "3..1", "a..b", "1..", "-1..2"])
def test_a_range_of_seeds_that_is_none_is_refused(seeds: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"A\.\.B"):
        command.demo(seeds=seeds, data=tmp_path)


def test_a_batch_that_is_too_small_to_plot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="below 20"):
        command.demo(files=command.FEWEST_FILES - 1, data=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_install_without_the_extra_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "NEEDED", ("yaml", "no_such_module"))
    with pytest.raises(NotAvailable, match="needs no_such_module") as caught:
        command.demo(data=tmp_path)
    assert "stepmesh[server,demo]" in caught.value.hint


def outcome(seed: int, *findings: str, problem: str = "") -> Outcome:
    kills = [Killed("worker", (11,), 1.5, 100, 10), Killed("all", (12, 13, 14), 2.5, 200, 20)]
    checks = [Check("every item ended, once", 200), Check("no completed step ran again", 900, findings)]
    return Outcome(seed, "run", 9.5, kills, checks, 900, 3, 3, problem=problem, explained=["step a waits for a worker"] if problem else [])


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> dict[int, Outcome]:
    """What each seed shows, instead of playing it."""
    outcomes: dict[int, Outcome] = {}

    async def play(stage: Stage, tell: object, report: bool = True) -> Outcome:
        return outcomes[stage.seed]

    monkeypatch.setattr(chaos, "play", play)
    return outcomes


def test_a_chaos_run_that_holds_ends_with_0(played: dict[int, Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played[4] = outcome(4)
    assert command.demo(chaos=True, seed=4, files=20, data=tmp_path) == 0
    said = capsys.readouterr().err
    assert "holds   every item ended, once (200)" in said
    assert "all" in said
    assert "12 13 14" in said


def test_a_finding_ends_it_with_1_and_is_told(played: dict[int, Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played[0] = outcome(0, "step a of item 3 began again")
    assert command.demo(chaos=True, files=20, data=tmp_path) == 1
    said = capsys.readouterr().err
    assert "BROKEN  no completed step ran again" in said
    assert "step a of item 3 began again" in said


def test_a_run_that_hangs_is_explained(played: dict[int, Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played[0] = outcome(0, problem="run r still runs after 90 s")
    assert command.demo(chaos=True, files=20, data=tmp_path) == 1
    said = capsys.readouterr().err
    assert "still runs after 90 s" in said
    assert "step a waits for a worker" in said


def test_many_seeds_get_a_line_each_and_keep_the_folder_of_one_that_fails(
    played: dict[int, Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    played |= {1: outcome(1), 2: outcome(2, "twice"), 3: outcome(3)}
    assert command.demo(seeds="1..3", files=20, data=tmp_path) == 1
    said = capsys.readouterr().err
    assert [line.split()[:3] for line in said.splitlines() if line.startswith("seed ")] == [
        ["seed", "1", "holds"],
        ["seed", "2", "BROKEN"],
        ["seed", "3", "holds"],
    ]
    assert "2 of 3 seeds hold" in said
    assert [one.name for one in tmp_path.iterdir()] == ["seed-2"]


def test_as_json_each_seed_is_a_line(played: dict[int, Outcome], tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    played |= {1: outcome(1), 2: outcome(2)}
    assert command.demo(seeds="1..2", files=20, data=tmp_path, json=True) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(b'"holds":true' in line for line in lines)


def test_no_checks_are_no_proof() -> None:
    assert not Outcome(0).holds
    assert outcome(0).holds
    assert not outcome(0, problem="it hung").holds
