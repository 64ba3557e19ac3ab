"""Questions to the orchestrator, and what its refusals mean in Python.

Every request here may be asked twice without harm: reads, content-addressed stores, and submissions or cancels of a run
whose id the caller chose. So each is repeated while the broker or the orchestrator is away, until `patience_s` is over.
This module must not know workers or tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec

from stepmesh import documents, payloads
from stepmesh.documents import FlowLike
from stepmesh.errors import BlobNotFound, FlowInvalid, FlowNotFound, RequestRefused, RunNotFound
from stepmesh.hedging import AGAIN_S, first_answer
from stepmesh_broker.errors import BrokerUnavailable, MalformedMessage
from stepmesh_broker.ports import Requester
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.api import (
    ApiAnswer,
    ApiRequest,
    BlobData,
    BlobStored,
    DeleteFlow,
    DeleteRun,
    FlowStored,
    GetBlob,
    GetInfo,
    GetRun,
    Info,
    PutBlob,
    RunInfo,
    StoreFlow,
)
from stepmesh_broker.protocol.ids import BlobId, FlowId, Namespace, Partition, RunId, home_of, partition_of
from stepmesh_broker.protocol.messages import (
    Accepted,
    AskUpdate,
    Cancel,
    ControlMessage,
    EventKept,
    Refused,
    RunMessage,
    SendEvent,
    SettleToken,
    UpdateTaken,
)
from stepmesh_broker.protocol.schedules import DeleteSchedule
from stepmesh_broker.protocol.subjects import Subject, checked_name
from stepmesh_broker.protocol.tokens import read_token

_A = TypeVar("_A", bound=ApiAnswer)
_K = TypeVar("_K", Accepted, EventKept, UpdateTaken)
_T = TypeVar("_T")
_REFUSALS: dict[str, type[RequestRefused]] = {kind.default_code: kind for kind in (RunNotFound, FlowNotFound, BlobNotFound)}
TIMEOUT_S = 10.0
"""How long one request waits for its answer (seconds), beside the wait that it asks for itself."""
TOLD_AGAIN_S = (3.0,)
"""Seconds without an answer after which a shard is told once more: it may have been handed over with the message on its way. Later than for
questions: what is told costs more, and who is slow under load must not get twice as much."""
RETRY_S = (0.05, 1.0)
"""Delay before a request is repeated: first, and largest (seconds); it doubles between."""
NO_SPACE = frozenset({"SM-4003", "SM-4101", "SM-7320"})
"""Refusals that end when there is room again: on the orchestrator's disk, or in a journal that projectors read."""
AWAY = frozenset({"SM-4005", "SM-4103", "SM-5110"})
"""Refusals of an orchestrator whose journal's or store's server is away, or that hands a partition over: for now there is nobody to ask."""


class Requests:
    """Asks over one broker connection. `patience_s`: how long to repeat a request that finds nobody. `waits_for_space`: one that is refused
    because the orchestrator's disk is full is repeated until it is not.
    """

    def __init__(self, broker: Requester, namespace: Namespace, patience_s: float = 30.0, *, waits_for_space: bool = False) -> None:
        self.broker = broker
        self.namespace = namespace
        self.patience_s = patience_s
        self._waits_for_space = waits_for_space
        self._info: Info | None = None

    async def ask(self, request: ApiRequest, kind: type[_A], wait_s: float = 0.0) -> _A:
        """The answer of any orchestrator. `wait_s`: how long the request asks it to wait. Raises `RequestRefused`, `BrokerUnavailable`."""
        subject, data = subjects.api(self.namespace), codec.encode(request)
        again = not isinstance(request, DeleteRun | DeleteFlow | DeleteSchedule) and (wait_s == 0.0 or self._may_be_shared)
        answer = await self._ask(subject, data, TIMEOUT_S + wait_s, codec.decode_api_answer, AGAIN_S if again else ())
        if isinstance(answer, Refused):
            raise refusal(answer)
        if not isinstance(answer, kind):
            raise MalformedMessage(f"{type(request).__name__} was answered with {type(answer).__name__}, not {kind.__name__}")
        return answer

    async def tell(self, partition: Partition, message: RunMessage) -> Accepted:
        """Have a shard journal something. Raises `RequestRefused`, `BrokerUnavailable`."""
        return await self._tell(partition, message, Accepted)

    async def send_event(self, name: str, key: str, id: str, data: bytes, tenant: str | None = None) -> EventKept:
        """Have an event kept at the home of its address. Raises as `tell`."""
        namespace = self.namespace if tenant is None else Namespace(checked_name("namespace", tenant))
        home = home_of(name, key, (await self.info()).partitions)
        return await self._tell(home, SendEvent(namespace, name, key, id, data), EventKept)

    async def ask_update(self, update: AskUpdate) -> UpdateTaken:
        """Have an update put into a function's history. Raises as `tell`: SM-5280 to SM-5285, `RunNotFound`."""
        return await self._tell((await self.get_run(update.run)).summary.partition, update, UpdateTaken)

    async def settle(self, token: str, value: bytes, rejected: bool) -> Accepted:
        """Settle a wait by its token. Raises as `tell`: `RequestRefused` SM-1060 for a token that is unknown, settled or expired."""
        named = read_token(token)  # none: any partition says so
        home = Partition(0) if named is None else partition_of(named.root or named.run, (await self.info()).partitions)
        return await self.tell(home, SettleToken(self.namespace, token, value, rejected))

    async def _tell(self, partition: Partition, message: ControlMessage, kind: type[_K]) -> _K:
        subject, data = subjects.control(self.namespace, partition), codec.encode(message)
        answer = await self._ask(subject, data, TIMEOUT_S, codec.decode_answer, TOLD_AGAIN_S)
        if isinstance(answer, Refused):
            raise refusal(answer)
        if not isinstance(answer, kind):
            raise MalformedMessage(f"{type(message).__name__} was answered with {type(answer).__name__}")
        return answer

    @property
    def _may_be_shared(self) -> bool:
        """Whether several orchestrators answer, as far as is known. Who waits at a single one need not ask again."""
        return self._info is None or self._info.shared

    async def _ask(self, subject: Subject, data: bytes, timeout_s: float, decode: Callable[[bytes], _T], pauses: tuple[float, ...]) -> _T:
        clock = asyncio.get_running_loop().time
        until = clock() + self.patience_s
        delay, largest = RETRY_S
        while True:
            try:
                answer = decode(await first_answer(lambda: self.broker.request(subject, data, timeout_s), pauses))
                if isinstance(answer, Refused) and answer.code in AWAY:
                    raise BrokerUnavailable(answer.message, code=answer.code, hint=answer.hint)
                if not (self._waits_for_space and isinstance(answer, Refused) and answer.code in NO_SPACE):
                    return answer
            except BrokerUnavailable:
                if clock() + delay >= until:
                    raise
            await asyncio.sleep(delay)
            delay = min(delay * 2, largest)

    async def info(self) -> Info:
        """The deployment; asked once."""
        if self._info is None:
            self._info = await self.ask(GetInfo(), Info)
        return self._info

    async def flow_id(self, flow: FlowLike) -> FlowId:
        """The id of a flow; stored first unless it is given by its id. Raises `FlowInvalid`, `BadFlow`."""
        known = documents.known_id(flow)
        return await self.store_flow(flow) if known is None else known

    async def store_flow(self, flow: FlowLike) -> FlowId:
        """Store a flow; returns its content id. Raises `FlowInvalid` with diagnostics, `BadFlow` when it cannot be read."""
        answer = await self.ask(StoreFlow(documents.text(flow)), FlowStored)
        if not answer.stored:
            found = msgspec.json.decode(answer.diagnostics)
            worst = next((one for one in found if one.get("level") != "warning"), None) or {}
            where = f" at {worst['path']}" if worst.get("path") else ""
            raise FlowInvalid(f"the flow was not stored: {worst.get('code', '')} {worst.get('message', 'invalid')}{where}", found)
        return answer.flow

    async def put_blob(
        self, data: Any, filename: str | None = None, content_type: str | None = None, kind: Literal["data", "flow"] = "data"
    ) -> BlobId:
        """Store bytes (as binary) or any JSON value (as data, or as a flow document)."""
        if isinstance(data, (bytes, bytearray, memoryview)):
            request = PutBlob(bytes(data), "binary", filename, content_type)
        else:
            request = PutBlob(payloads.write(data), kind, filename, content_type)
        return (await self.ask(request, BlobStored)).blob

    async def get_blob(self, blob: str) -> Any:
        """What `put_blob` stored: bytes, or the decoded JSON value. Raises `BlobNotFound`."""
        answer = await self.read_blob(blob)
        return answer.data if answer.kind == "binary" else msgspec.json.decode(answer.data)

    async def read_blob(self, blob: str) -> BlobData:
        """A blob as it is stored, with its kind and file name. Raises `BlobNotFound`."""
        return await self.ask(GetBlob(BlobId(blob)), BlobData)

    async def get_run(self, run: str, wait_s: float = 0.0, results: bool = False) -> RunInfo:
        """State of a run; with `wait_s` as soon as it ended. Raises `RunNotFound`."""
        return await self.ask(GetRun(RunId(run), round(wait_s * 1000), results), RunInfo, wait_s)

    async def cancel(self, run: str, reason: str = "") -> None:
        """Stop a run and its sub-runs. Raises `RunNotFound`."""
        where = (await self.get_run(run)).summary.partition
        await self.tell(where, Cancel(RunId(run), reason))


def refusal(answer: Refused) -> RequestRefused:
    """The exception for an orchestrator's refusal, with its own code."""
    kind = _REFUSALS.get(answer.code, RequestRefused)
    data = None if answer.data is None else msgspec.json.decode(answer.data)
    return kind(answer.message, code=answer.code, hint=answer.hint, data=data)
