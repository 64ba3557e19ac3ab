"""Questions to the durable functions that a worker offers, answered beside its tasks.

Invariant: whatever is asked, there is an answer, and no task is touched. It must not know how questions come.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import structs

from stepmesh.component import Components
from stepmesh_broker.errors import BrokerUnavailable, StepmeshError
from stepmesh_broker.ports import Requester
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.codec import decode_answer, decode_query, encode
from stepmesh_broker.protocol.histories import Record, encode_records
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.messages import Refused
from stepmesh_broker.protocol.queries import HistoryPage, QueryAnswer, QueryTask, ReadHistory

PAGE_S = 5.0
"""How long a partition may take to answer with a page, in seconds."""
Pages = Callable[[QueryTask], Awaitable[list[Record]]]
"""Fetches the history of a question."""


class Unanswered(StepmeshError):
    """What a partition refuses."""


async def answered(components: Components, data: bytes, limit: int, pages: Pages) -> bytes:
    """The answer to a question, encoded; no larger than `limit` bytes."""
    answer = await _answered(components, data, pages)
    if len(answer) <= limit:
        return answer
    message = f"the answer to the query has {len(answer)} bytes, and no message from the worker carries more than {limit}"
    return encode(Refused("SM-5135", message, "answer with less, or with the id of a blob"))


async def _answered(components: Components, data: bytes, pages: Pages) -> bytes:
    try:
        asked = decode_query(data)
        component = components.get(asked.task.component)
        if component is None or component.query is None:
            message = f"this worker has no workflow at {asked.task.component}"
            return encode(Refused("SM-1079", message, "the workers of a pool offer the same: deploy it to all of them"))
        if asked.question:
            history = encode_records(await pages(asked))
            asked = structs.replace(asked, task=structs.replace(asked.task, history=history))
        return encode(QueryAnswer(component.query(asked)))
    except StepmeshError as problem:
        return encode(Refused(problem.code, problem.message, problem.hint))


def pages_over(broker: Requester, namespace: Namespace, answer_bytes: int) -> Pages:
    """From the owner of the function's partition, in answers of so many bytes. Raises `BrokerUnavailable`, and what the owner refuses."""

    async def pages(asked: QueryTask) -> list[Record]:
        found: list[Record] = []
        while True:
            wanted = encode(ReadHistory(asked.question, len(found), answer_bytes))
            answer = decode_answer(await broker.request(subjects.control(namespace, asked.partition), wanted, PAGE_S))
            if isinstance(answer, Refused):
                raise Unanswered(answer.message, code=answer.code, hint=answer.hint)
            if not isinstance(answer, HistoryPage):
                raise BrokerUnavailable(f"a partition answered with {type(answer).__name__}", hint="upgrade the orchestrator first")
            found += answer.records
            if not answer.more:
                return found

    return pages
