"""The line to a worker of stepmesh.v1: nothing of a task that was stopped stays, and a task is there before its stop."""

from __future__ import annotations

from tests.unit.sdk.conftest import make_task

from stepmesh.attempt import Why
from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.protocol.messages import TaskRef
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.rpc.work_line import MESSAGE_BYTES, WorkLine
from stepmesh_gateway.work.line import Assigned


def assigned(step: int, size: int = 0) -> Assigned:
    task = make_task("/echo", b'"%b"' % (b"x" * size), step)
    return Assigned(TaskId(TaskRef(task.run, task.item, task.step, task.attempt), Partition(0), "j"), task, "/echo", {})


def test_a_stopped_task_is_forgotten_and_its_late_result_understood() -> None:
    line, one = WorkLine(), assigned(1)
    line.send([one])
    assert line.next() is not None
    line.stop(one.id, Why.CANCELLED)
    assert not line.ids, "its worker says no more of it"
    assert line.ended(str(one.id)) == line.named(str(one.id)) == one.id


def test_a_stop_comes_no_sooner_than_its_task() -> None:
    line, tasks = WorkLine(), [assigned(step, MESSAGE_BYTES) for step in range(3)]
    line.send(tasks)
    for one in tasks[::2]:
        line.stop(one.id, Why.CANCELLED)
    told = []
    while (message := line.next()) is not None:
        told.append(([task.step for task in message.tasks], [stop.id for stop in message.stops]))
    assert told == [([0], [str(tasks[0].id)]), ([1], []), ([2], [str(tasks[2].id)])]
