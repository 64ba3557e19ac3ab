"""The api subject of one process: decodes a request, hands it to those who answer its kind, and sees to it that the answer fits.

No rule of the engine is here; what goes wrong is an answer too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from stepmesh_broker.errors import MalformedMessage, MessageTooLarge, StepmeshError
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.codec import decode_api_request, encode
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.runtime.deployment_requests import DeploymentRequests
from stepmesh_orchestrator.runtime.flow_requests import FlowRequests
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.history import History
from stepmesh_orchestrator.runtime.partition import PartitionService, Ports
from stepmesh_orchestrator.runtime.presence import Presence
from stepmesh_orchestrator.runtime.run_requests import RunRequests
from stepmesh_orchestrator.runtime.run_view import RunView

log = logging.getLogger("stepmesh.api")


class Api:
    """`owner`: this process. `queues`: the pools of its configuration, None without one."""

    def __init__(
        self,
        ports: Ports,
        namespace: Namespace,
        owner: str,
        info: api.Info,
        queues: Sequence[api.Queue] | None,
        flows: FlowRegistry,
        presence: Presence,
        partitions: Mapping[Partition, PartitionService],
        component_path: Callable[[Pool, str], str],
    ) -> None:
        self._broker = ports.broker
        view = RunView(ports, namespace, owner, partitions)
        self._answers = {
            **FlowRequests(view, flows).answers,
            **RunRequests(view, History(ports.journal, flows), presence).answers,
            **DeploymentRequests(info, queues, presence, partitions, component_path).answers,
        }

    async def serve(self, data: bytes) -> bytes:
        """Bytes in, bytes out; what goes wrong is a `Refused`."""
        try:
            request = decode_api_request(data)
            return self._checked(encode(await self.answer(request)))
        except MalformedMessage as problem:
            return encode(Refused(problem.code, problem.message, "client and server may be of different versions"))
        except StepmeshError as problem:
            return encode(Refused(problem.code, problem.message, problem.hint))
        except Exception:
            log.exception("SM-5900 a request cannot be answered")
            return encode(Refused("SM-5900", "the orchestrator failed to answer; its log has the details", "report it with that log"))

    async def answer(self, request: api.ApiRequest) -> api.ApiAnswer:
        """One request. Raises `StepmeshError` of ports."""
        return await self._answers[type(request)](request)

    def _checked(self, answer: bytes) -> bytes:
        limit = self._broker.max_message_bytes
        if len(answer) <= limit:
            return answer
        problem = MessageTooLarge.of(len(answer), limit)
        return encode(Refused(problem.code, f"the answer cannot be sent: {problem.message}", problem.hint))
