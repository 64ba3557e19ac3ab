"""Packing: how many tasks travel together."""

from __future__ import annotations

import pytest

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import Task
from stepmesh_orchestrator.runtime.packing import FRAME_WORK_US, MAX_BYTES, MAX_TASKS, PoolPace, pack


def tasks(*sizes: int) -> list[Task]:
    return [Task(RunId("r"), index, 0, 1, 1, "a", "/c", b"x" * size) for index, size in enumerate(sizes)]


def lengths(frames: list[list[Task]]) -> list[int]:
    return [len(frame) for frame in frames]


@pytest.mark.parametrize(("count", "frames"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4]), (9, [4, 4, 1])])
def test_frames_hold_at_most_their_size_in_order(count: int, frames: list[int]) -> None:
    packed = pack(tasks(*[1] * count), 4)
    assert lengths(packed) == frames
    assert [task.item for frame in packed for task in frame] == list(range(count))


@pytest.mark.parametrize(("second", "frames"), [(MAX_BYTES // 2, [2]), (MAX_BYTES // 2 + 1, [1, 1])])
def test_frames_are_bounded_by_bytes(second: int, frames: list[int]) -> None:
    assert lengths(pack(tasks(MAX_BYTES // 2, second), 64)) == frames


def test_a_task_above_the_bound_travels_alone() -> None:
    assert lengths(pack(tasks(1, MAX_BYTES + 1, 1, 1), 64)) == [1, 1, 2]


def test_an_unknown_pool_gets_single_tasks_until_its_pace_is_known() -> None:
    assert PoolPace().frame_size(1_000, 1) == 1


def paced(duration_us: int) -> PoolPace:
    pace = PoolPace()
    for _ in range(500):
        pace.observe(duration_us)
    return pace


@pytest.mark.parametrize(
    ("duration_us", "size"),
    [(0, MAX_TASKS), (100, MAX_TASKS), (FRAME_WORK_US // 10, 10), (FRAME_WORK_US // 4, 4), (FRAME_WORK_US, 1), (10**9, 1)],
)
def test_a_frame_is_about_twenty_milliseconds_of_work(duration_us: int, size: int) -> None:
    # an average that nears its limit from above gives one task less until it is there
    assert paced(duration_us).frame_size(1_000_000, 1) in (size, max(1, size - 1))


@pytest.mark.parametrize(("ready", "workers", "size"), [(8, 4, 2), (9, 4, 3), (8, 0, 8), (8, 100, 1), (1, 1, 1), (64, 1, 64), (65, 1, 64)])
def test_a_burst_is_spread_over_the_workers_that_are_there(ready: int, workers: int, size: int) -> None:
    assert paced(1).frame_size(ready, workers) == size


def test_a_pool_that_slows_down_gets_smaller_frames() -> None:
    pace = paced(10)
    before = pace.frame_size(1_000, 1)
    for _ in range(100):
        pace.observe(50_000)
    assert (before, pace.frame_size(1_000, 1)) == (MAX_TASKS, 1)


@pytest.mark.parametrize("nonsense", [-(10**12), 2**63])
def test_a_duration_that_cannot_be_true_breaks_nothing(nonsense: int) -> None:
    pace = PoolPace()
    pace.observe(nonsense)
    assert 1 <= pace.frame_size(1_000, 1) <= MAX_TASKS
