"""Task ids as workers see them: all that a gateway needs to pass on a result, so that any gateway can, also one that never saw the task.

A worker takes an id for an opaque string. It is not a secret: it names, it does not authorise.
"""

from __future__ import annotations

from typing import NamedTuple

from stepmesh_broker.errors import MalformedMessage
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_broker.protocol.messages import Task, TaskFrame, TaskRef

_MARK = "!"


class TaskId(NamedTuple):
    """One attempt, the partition that owns it, and the journal that knows it. `copy`: which sending of it this is. A gateway
    counts from a number of its own, so that a copy of its predecessor's is none of its own: only the newest copy may still be begun."""

    ref: TaskRef
    partition: Partition
    journal: str
    copy: int = 0

    @classmethod
    def of(cls, task: Task, frame: TaskFrame, copy: int = 0) -> TaskId:
        """The id of a task of a frame."""
        return cls(TaskRef(task.run, task.item, task.step, task.attempt), frame.partition, frame.journal, copy)

    @classmethod
    def parse(cls, text: str) -> TaskId:
        """Read what `str` wrote. Raises `MalformedMessage` for anything else."""
        parts = text.split(".", 6)
        if len(parts) != 7 or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts[1:6]):
            raise MalformedMessage(f"{text[:80]!r} is not the id of a task", hint="send back the task_id that came with the task")
        run, item, step, attempt, copy, partition, journal = parts
        return cls(TaskRef(RunId(run), int(item), int(step), int(attempt)), Partition(int(partition)), journal, int(copy))

    def __str__(self) -> str:
        """`run.item.step.attempt.copy.partition.journal`."""
        ref = self.ref
        return f"{ref.run}.{ref.item}.{ref.step}.{ref.attempt}.{self.copy}.{self.partition}.{self.journal}"


def root_of(root: RunId, task: TaskId) -> str:
    """What a stepflow.v1 worker is told as its root run id: it sends that back with a sub-run, and so says which task starts it."""
    return f"{root}{_MARK}{task}"


def split_root(text: str) -> tuple[RunId, TaskId | None]:
    """The root run, and the task if `root_of` made the text. Raises `MalformedMessage`."""
    root, mark, task = text.partition(_MARK)
    return RunId(root), TaskId.parse(task) if mark else None
