"""Before a process joins a cluster: does it count the partitions as the others do?

Runs are placed by that number. Two processes that disagree would each look for a run where the other one does not keep it.
"""

from __future__ import annotations

from stepmesh_broker.errors import BrokerUnavailable, StepmeshError
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.api import GetInfo, Info
from stepmesh_broker.protocol.codec import decode_api_answer, encode
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_orchestrator.ports import Journal

ASK_S = 2.0
"""How long those who are there get to answer."""


class PartitionsDisagree(StepmeshError):
    """The journal, or the members that are there, have another number of partitions."""

    default_code = "SM-5111"


async def agree(broker: Broker, journal: Journal, namespace: Namespace, partitions: int) -> None:
    """Raises `PartitionsDisagree`. A journal tells only of partitions that were owned once; the members are asked for the rest."""
    known = max(await journal.partitions(), default=-1) + 1
    if known > partitions:
        raise _disagreement("the journal", known, partitions)
    try:
        answer = decode_api_answer(await broker.request(subjects.api(namespace), encode(GetInfo()), ASK_S))
    except BrokerUnavailable:
        return  # nobody is there
    if isinstance(answer, Info) and answer.partitions != partitions:
        raise _disagreement("the cluster", answer.partitions, partitions)


def _disagreement(who: str, known: int, partitions: int) -> PartitionsDisagree:
    return PartitionsDisagree(f"{who} has {known} partitions, not {partitions}", hint=f"--partitions {known}; the number cannot be changed")
