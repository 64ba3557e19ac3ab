"""Questions to the durable functions that a worker offers, answered beside its tasks.

Invariant: whatever is asked, there is an answer, and no task is touched. It must not know how questions come.
"""

from __future__ import annotations

from stepmesh.component import Components
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.codec import decode_query, encode
from stepmesh_broker.protocol.messages import Refused
from stepmesh_broker.protocol.queries import QueryAnswer


def answered(components: Components, data: bytes, limit: int) -> bytes:
    """The answer to a question, encoded; no larger than `limit` bytes."""
    answer = _answered(components, data)
    if len(answer) <= limit:
        return answer
    message = f"the answer to the query has {len(answer)} bytes, and no message from the worker carries more than {limit}"
    return encode(Refused("SM-5135", message, "answer with less, or with the id of a blob"))


def _answered(components: Components, data: bytes) -> bytes:
    try:
        asked = decode_query(data)
        component = components.get(asked.task.component)
        if component is None or component.query is None:
            message = f"this worker has no workflow at {asked.task.component}"
            return encode(Refused("SM-1079", message, "the workers of a pool offer the same: deploy it to all of them"))
        return encode(QueryAnswer(component.query(asked)))
    except StepmeshError as problem:
        return encode(Refused(problem.code, problem.message, problem.hint))
