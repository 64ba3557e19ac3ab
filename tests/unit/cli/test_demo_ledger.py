"""The ledger: what a real worker writes, and how it is read when processes were killed while they wrote."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from tests.unit.cli.recording import Recorded

from stepmesh_cli.demo.ledger import Execution, LedgerWatch, Line, executions, read_lines


def line(kind: str, at_us: int, pid: int = 1, attempt: int = 1, outcome: str = "", item: int = 0) -> Line:
    return msgspec.convert([kind, at_us, pid, "cpu", "run", item, "step", attempt, outcome], Line)


def write(folder: Path, name: str, *lines: Line, torn: bytes = b"") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    with path.open("ab") as file:
        file.write(b"".join(msgspec.json.encode(one) + b"\n" for one in lines) + torn)
    return path


def test_starts_find_their_ends_over_processes(tmp_path: Path) -> None:
    write(tmp_path, "cpu-1.jsonl", line("start", 10), line("end", 30, outcome="ok"))
    write(tmp_path, "cpu-2.jsonl", line("start", 20, pid=2, attempt=2), line("end", 25, pid=2, attempt=2, outcome="failed"))
    found = executions(read_lines(tmp_path))
    assert found == [
        Execution(1, "cpu", "run", 0, "step", 1, 10, 30, "ok"),
        Execution(2, "cpu", "run", 0, "step", 2, 20, 25, "failed"),
    ]


def test_an_execution_that_its_process_did_not_survive_has_no_end(tmp_path: Path) -> None:
    write(tmp_path, "cpu-1.jsonl", line("start", 10))
    assert executions(read_lines(tmp_path)) == [Execution(1, "cpu", "run", 0, "step", 1, 10, None, "killed")]


def test_the_same_attempt_may_begin_twice_in_one_process(tmp_path: Path) -> None:
    lines = [line("start", 10), line("end", 20, outcome="dropped"), line("start", 30), line("end", 40, outcome="ok")]
    write(tmp_path, "cpu-1.jsonl", *lines)
    assert [(one.start_us, one.end_us, one.outcome) for one in executions(read_lines(tmp_path))] == [(10, 20, "dropped"), (30, 40, "ok")]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "cpu-1.jsonl", line("start", 10), torn=b'["end",20,1,"cp')
    assert [one.kind for one in read_lines(tmp_path)] == ["start"]


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    write(tmp_path, "cpu-1.jsonl", torn=b"nonsense\n")
    with pytest.raises(msgspec.DecodeError):
        read_lines(tmp_path)


def test_a_watch_reads_what_is_new_and_knows_who_works(tmp_path: Path) -> None:
    watch = LedgerWatch(tmp_path)
    watch.look()
    assert (watch.begun, watch.busy) == (0, set())
    path = write(tmp_path, "cpu-1.jsonl", line("start", 10), line("start", 11, item=1), torn=b'["end",20')
    watch.look()
    assert (watch.begun, watch.busy) == (2, {1})
    with path.open("ab") as file:
        file.write(b',1,"cpu","run",0,"step",1,"ok"]\n' + msgspec.json.encode(line("end", 21, item=1)) + b"\n")
    watch.look()
    watch.look()
    assert (watch.begun, watch.busy) == (2, set())


def test_a_worker_writes_a_start_and_an_end_for_each_attempt(recorded: Recorded) -> None:
    found = recorded.executions
    assert {one.pid for one in found} == {os.getpid()}
    assert {one.pool for one in found} == {"cpu", "accel"}
    assert all(one.end_us is not None and one.end_us >= one.start_us for one in found)
    parses = [one for one in found if one.step == "parse"]
    assert sorted(one.item for one in parses) == list(range(len(recorded.files)))
    assert {one.outcome for one in parses} == {"ok", "failed"}
