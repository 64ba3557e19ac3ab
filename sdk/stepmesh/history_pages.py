"""A question to a durable function whose history does not fit into its message, made whole.

Invariant: what comes out is the question as it would have come if there were no limit to a message.
"""

from __future__ import annotations

from msgspec import structs

from stepmesh_broker.errors import BrokerUnavailable, StepmeshError
from stepmesh_broker.ports import Requester
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.codec import decode_answer, decode_query, encode
from stepmesh_broker.protocol.histories import Record, encode_records
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.messages import FORMAT, Refused
from stepmesh_broker.protocol.queries import HistoryPage, QueryTask, ReadHistory

PAGE_S = 5.0
"""How long a partition may take to answer with a page, in seconds."""


class Unanswered(StepmeshError):
    """What a partition refuses."""


async def whole(broker: Requester, namespace: Namespace, data: bytes) -> bytes:
    """The question with its history. Raises `MalformedMessage`, `BrokerUnavailable`, `Unanswered`."""
    asked = decode_query(data)
    if not asked.question:
        return data
    history = encode_records(await _records(broker, namespace, asked))
    return encode(structs.replace(asked, task=structs.replace(asked.task, history=history), format=FORMAT, question=""))


async def _records(broker: Requester, namespace: Namespace, asked: QueryTask) -> list[Record]:
    found: list[Record] = []
    while True:
        wanted = encode(ReadHistory(asked.question, len(found)))
        answer = decode_answer(await broker.request(subjects.control(namespace, asked.partition), wanted, PAGE_S))
        if isinstance(answer, Refused):
            raise Unanswered(answer.message, code=answer.code, hint=answer.hint)
        if not isinstance(answer, HistoryPage):
            raise BrokerUnavailable(f"a partition answered with {type(answer).__name__}", hint="upgrade the orchestrator first")
        found += answer.records
        if not answer.more:
            return found
