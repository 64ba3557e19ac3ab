"""The line to a worker of `WorkerService.Work`: what the bridge says gathers here until the stream has room, and leaves in one message.

Invariant: nothing here waits or raises; what gathers is bounded by the credit that the worker gave and by the results that it sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from stepmesh.attempt import Why
from stepmesh_broker.pb.stepmesh.v1 import worker_pb2 as pb
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.translate.work import fill_activation, fill_task
from stepmesh_gateway.work.line import Assigned

MESSAGE_BYTES = 1024 * 1024
"""Tasks in one message, in bytes of input; a larger one travels alone."""
MESSAGE_TASKS = 2048
"""Tasks in one message."""
AWAITED = 10_000
"""While so many results of a worker are not recorded, nothing more is read from it."""
_REASONS = {Why.CANCELLED: pb.Stop.CANCELLED, Why.ELSEWHERE: pb.Stop.ELSEWHERE}


class WorkLine:
    """`work.line.Line`. `wake` is set while there may be something to send, `calm` while results may be read. `ids`: tasks that the
    worker has, by what it calls them. `awaited`: those whose results it sent and that are not recorded."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.ids: dict[str, TaskId] = {}
        self.calm = asyncio.Event()
        self.calm.set()
        self.awaited: set[str] = set()
        self._tasks: deque[tuple[str, Assigned]] = deque()
        self._recorded: list[str] = []
        self._news: dict[str, None] = {}
        self._questions: deque[pb.Question] = deque()
        self._stops: list[pb.Stop] = []
        self._drain = False

    def send(self, assigned: Sequence[Assigned]) -> None:
        """See `Line`."""
        for one in assigned:
            name = str(one.id)
            self.ids[name] = one.id
            self._tasks.append((name, one))
        self.wake.set()

    def stop(self, task: TaskId, why: Why) -> None:
        """See `Line`."""
        name = str(task)
        self.ids.pop(name, None)  # the worker need not say any more of it
        self._stops.append(pb.Stop(id=name, reason=_REASONS.get(why, pb.Stop.CANCELLED)))
        self.wake.set()

    def news(self, task: TaskId) -> None:
        """See `Line`."""
        self._news[str(task)] = None
        self.wake.set()

    def ask(self, number: int, question: bytes) -> None:
        """See `Line`."""
        self._questions.append(pb.Question(number=number, question=question))
        self.wake.set()

    def recorded(self, tasks: Sequence[TaskId]) -> None:
        """See `Line`."""
        names = [str(task) for task in tasks]
        self._recorded.extend(names)
        self.awaited.difference_update(names)
        if len(self.awaited) < AWAITED:
            self.calm.set()
        self.wake.set()

    def drain(self) -> None:
        """See `Line`."""
        self._drain = True
        self.wake.set()

    @property
    def unsent(self) -> int:
        """Tasks that wait for room on the stream."""
        return len(self._tasks)

    def wait_for(self, id: str) -> None:
        """The worker sent the result of this one."""
        self.awaited.add(id)
        if len(self.awaited) >= AWAITED:
            self.calm.clear()

    def ended(self, id: str) -> TaskId:
        """The task that the worker calls `id`, which is over or given back. Raises `MalformedMessage` for what is no id."""
        return self.ids.pop(id, None) or TaskId.parse(id)

    def named(self, id: str) -> TaskId:
        """The task that the worker calls `id`. Raises `MalformedMessage`."""
        return self.ids.get(id) or TaskId.parse(id)

    def next(self) -> pb.ToWorker | None:
        """The next message, with as much as fits; None when there is nothing to say."""
        if self._questions:  # each by itself: it may fill a message
            return pb.ToWorker(questions=[self._questions.popleft()])
        if not (self._tasks or self._recorded or self._stops or self._news or self._drain):
            self.wake.clear()
            return None
        message = pb.ToWorker(recorded=self._recorded, drain=self._drain, news=self._news)
        self._news.clear()
        self._recorded.clear()
        self._drain = False
        self._add_tasks(message)
        if self._stops:
            self._add_stops(message)
        return message

    def _add_tasks(self, message: pb.ToWorker) -> None:
        tasks, size, count = self._tasks, 0, 0
        while tasks and count < MESSAGE_TASKS and (not count or size + len(tasks[0][1].task.input) <= MESSAGE_BYTES):
            name, one = tasks.popleft()
            size += len(one.task.input)
            count += 1
            made = message.tasks.add(partition=one.id.partition)
            fill_task(made, name, one.task, one.component, one.path_params)
            if one.function:
                size += fill_activation(made.activation, one.id.journal, one.task, one.fresh)

    def _add_stops(self, message: pb.ToWorker) -> None:
        """Of a task that is not sent yet, later: a worker that does not have it would not know what to stop."""
        unsent = {name for name, _ in self._tasks}
        message.stops.extend(stop for stop in self._stops if stop.id not in unsent)
        self._stops = [stop for stop in self._stops if stop.id in unsent]
