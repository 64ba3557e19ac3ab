"""The api subject of one process: decodes a request, hands it to those who answer its kind, and sees to it that the answer fits.

No rule of the engine is here; what goes wrong is an answer too.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from stepmesh_broker.errors import MalformedMessage, MessageTooLarge, StepmeshError
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.codec import decode_api_request, decode_peer_request, encode
from stepmesh_broker.protocol.ids import Pool
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.runtime.clustered import ClusteredRequests
from stepmesh_orchestrator.runtime.continuing import Continuations
from stepmesh_orchestrator.runtime.dead_letter_requests import DeadLetterRequests
from stepmesh_orchestrator.runtime.deployment_requests import DeploymentRequests
from stepmesh_orchestrator.runtime.flow_requests import FlowRequests
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.history import History
from stepmesh_orchestrator.runtime.owners import Owners, PartitionMoving
from stepmesh_orchestrator.runtime.peers import PeerRequests
from stepmesh_orchestrator.runtime.presence import Presence
from stepmesh_orchestrator.runtime.queries import QueryRequests
from stepmesh_orchestrator.runtime.run_requests import RunRequests
from stepmesh_orchestrator.runtime.run_view import RunView
from stepmesh_orchestrator.runtime.schedule_requests import ScheduleRequests
from stepmesh_orchestrator.runtime.visits import Visits

log = logging.getLogger("stepmesh.api")
_R = TypeVar("_R")
Answers = dict[type, Callable[[Any], Awaitable[api.ApiAnswer]]]


class Api:
    """`info`: None while it is not known. `queues`: the pools of its configuration, None without one. `owners`: those of the partitions,
    where this process may own a part of them only."""

    def __init__(
        self,
        view: RunView,
        info: Callable[[], api.Info | None],
        queues: Sequence[api.Queue] | None,
        flows: FlowRegistry,
        presence: Presence,
        component_path: Callable[[Pool, str], str],
        owners: Owners | None = None,
    ) -> None:
        self._broker = view.ports.broker
        of_flows = FlowRequests(view, flows)
        of_deployment = DeploymentRequests(info, queues, presence, view.partitions, component_path)
        of_runs = RunRequests(view, History(view.ports.journal, flows), presence)
        self._here: Answers = {
            **of_flows.answers, **of_runs.answers, **of_deployment.answers, **Continuations(view, flows).answers,
            **ScheduleRequests(view, flows).answers, **QueryRequests(view, flows).answers,
            **DeadLetterRequests(self._broker).answers,
        }  # fmt: skip
        self._answers = dict(self._here)
        if owners is not None:
            self._answers.update(ClusteredRequests(view, owners, of_flows, of_deployment).answers)
        self._visits = Visits()

    def stop(self) -> None:
        """This process ends: whoever waits for an answer is to ask another one, or again. Deletions are seen through."""
        self._visits.end(lambda: PartitionMoving("this orchestrator ends", hint="ask again, another one answers"))

    async def serve(self, data: bytes) -> bytes:
        """A client's request; bytes in, bytes out. What goes wrong is a `Refused`."""
        return await self._told(data, decode_api_request, self.answer)

    async def serve_peer(self, data: bytes, partition: PeerRequests) -> bytes:
        """Another orchestrator's request to the owner of a partition."""
        return await self._told(data, decode_peer_request, partition.answer)

    async def answer(self, request: api.ApiRequest) -> api.ApiAnswer:
        """One request. Raises `StepmeshError` of ports."""
        if isinstance(request, api.DeleteRun | api.DeleteFlow):
            return await self._answers[type(request)](request)
        async with self._visits.visit():
            return await self._answers[type(request)](request)

    async def answer_here(self, request: api.ApiRequest) -> api.ApiAnswer:
        """One request, from what this process owns."""
        return await self._here[type(request)](request)

    async def _told(self, data: bytes, decode: Callable[[bytes], _R], answer: Callable[[_R], Awaitable[Any]]) -> bytes:
        try:
            return self._checked(encode(await answer(decode(data))))
        except MalformedMessage as problem:
            return encode(Refused(problem.code, problem.message, "client and server may be of different versions"))
        except StepmeshError as problem:
            return encode(Refused(problem.code, problem.message, problem.hint))
        except Exception:
            log.exception("SM-5900 a request cannot be answered")
            return encode(Refused("SM-5900", "the orchestrator failed to answer; its log has the details", "report it with that log"))

    def _checked(self, answer: bytes) -> bytes:
        limit = self._broker.max_message_bytes
        if len(answer) <= limit:
            return answer
        problem = MessageTooLarge.of(len(answer), limit)
        return encode(Refused(problem.code, f"the answer cannot be sent: {problem.message}", problem.hint))
