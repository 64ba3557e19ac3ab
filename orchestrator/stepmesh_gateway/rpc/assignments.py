"""What stepflow.v1 workers are sent, whatever carries it: tasks, and the question after their components.

Invariant: a task that no message can hold is ended here, with the limit that says why.
"""

from __future__ import annotations

from collections.abc import Callable

from stepmesh_broker.pb.stepflow.v1 import tasks_pb2
from stepmesh_gateway.settings import GatewaySettings
from stepmesh_gateway.translate import task_messages
from stepmesh_gateway.translate.values import NoJson
from stepmesh_gateway.work.line import Assigned
from stepmesh_gateway.work.seat import Seat


class Assignments:
    """`address`: where workers are to answer."""

    def __init__(self, settings: GatewaySettings, address: Callable[[], str]) -> None:
        self._settings = settings
        self.address = address

    def question(self, id: str) -> tasks_pb2.TaskAssignment:
        """Which components do you offer?"""
        return tasks_pb2.TaskAssignment(
            task_id=id,
            list_components=tasks_pb2.ListComponentsRequest(),
            context=tasks_pb2.TaskContext(orchestrator_service_url=self.address()),
        )

    def message(self, assigned: Assigned, seat: Seat, most_bytes: int | None = None) -> tasks_pb2.TaskAssignment | None:
        """The task as a message; None when it cannot be one, which is its end. `most_bytes`: what the carrier takes, if that is known."""
        id, task = assigned.id, assigned.task
        try:
            message = task_messages.assignment(id, task, assigned.component, assigned.path_params)
        except NoJson as problem:
            seat.refuse(id, task_messages.unsendable(id.ref, task.step_id, str(problem)))
            return None
        message.context.CopyFrom(task_messages.context(id, task, self.address()))
        message.heartbeat_interval_secs = self._settings.heartbeat_s
        why = self._too_large(message.ByteSize(), most_bytes)
        if why:
            seat.refuse(id, task_messages.unsendable(id.ref, task.step_id, why))
            return None
        return message

    def _too_large(self, size: int, most_bytes: int | None) -> str:
        limit = self._settings.limits.assignment_bytes
        if size > limit:
            way = "put large data into a blob, or raise the limit and the worker's grpc.max_receive_message_length"
            return f"it has {size:,} bytes as a message; limits.assignment_bytes is {limit:,}; {way}"
        if most_bytes is not None and size > most_bytes:
            way = "put large data into a blob, or raise max_payload of the NATS server"
            return f"it has {size:,} bytes as a message; the NATS server takes {most_bytes:,}; {way}"
        return ""
