"""How many tasks travel in one frame: about 20 ms of work by the pool's recent durations, spread over the workers that are there."""

from __future__ import annotations

from stepmesh_broker.protocol.messages import Task

FRAME_WORK_US = 20_000
"""The work in one frame, µs (architecture.md, Task delivery)."""
MAX_TASKS = 64
"""Frames of 64 reach the broker's limit; 8 already give 80 % of it (architecture.md, Speed)."""
MAX_BYTES = 512 * 1024
"""Inputs and histories in one frame of more than one task, bytes."""
_UNKNOWN_US = 20_000.0
_WEIGHT = 0.05


class PoolPace:
    """A pool's recent task duration: an exponential moving average, µs."""

    __slots__ = ("average_us",)

    def __init__(self) -> None:
        self.average_us = _UNKNOWN_US

    def observe(self, duration_us: int) -> None:
        """One more finished task."""
        self.average_us += _WEIGHT * (duration_us - self.average_us)

    def frame_size(self, ready: int, workers: int) -> int:
        """Tasks per frame when `ready` tasks go to a pool with `workers` workers; 1 … MAX_TASKS."""
        by_work = int(FRAME_WORK_US / max(self.average_us, 1.0))
        by_share = -(-ready // max(workers, 1))
        return max(1, min(by_work, by_share, MAX_TASKS))


def pack(tasks: list[Task], size: int) -> list[list[Task]]:
    """Cut into frames of at most `size` tasks and about `MAX_BYTES`, in order."""
    frames: list[list[Task]] = []
    frame: list[Task] = []
    held = 0
    for task in tasks:
        size_of = len(task.input) + len(task.history) + len(task.news)
        if frame and (len(frame) >= size or held + size_of > MAX_BYTES):
            frames.append(frame)
            frame, held = [], 0
        frame.append(task)
        held += size_of
    if frame:
        frames.append(frame)
    return frames
