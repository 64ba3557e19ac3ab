"""Errors as gRPC statuses, with standard status details.

`google.rpc.ErrorInfo` always: reason is the SM code, metadata has the hint. `google.rpc.BadRequest` when a field is to blame.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from stepmesh_broker.errors import StepmeshError
from stepmesh_gateway.translate.defects import defect
from stepmesh_gateway.translate.kinds import kind_of

log = logging.getLogger("stepmesh.gateway")

Context = grpc.aio.ServicerContext[Any, Any]
_STATUS = {status.value[0]: status for status in grpc.StatusCode}
_TOLD = 3_000
"""Characters of a message at most: it travels as a header, and percent-encoded."""


def status_of(problem: StepmeshError) -> grpc.StatusCode:
    """The status for an error."""
    return _STATUS[kind_of(problem).value[0]]


async def refuse(context: Context, status: grpc.StatusCode, problem: StepmeshError) -> NoReturn:
    """End the call with a status; the message says what to do as well."""
    text = str(problem)
    text = text if len(text) <= _TOLD else f"{text[:_TOLD]} …"
    rich = rpc_status.to_status(status_pb2.Status(code=status.value[0], message=text, details=_details(problem)))
    await context.abort(rich.code, rich.details, rich.trailing_metadata)
    raise AssertionError("abort raises")


def _details(problem: StepmeshError) -> Sequence[AnyMessage]:
    info = error_details_pb2.ErrorInfo(reason=problem.code, domain="stepmesh", metadata={"hint": problem.hint})
    violations = [error_details_pb2.BadRequest.FieldViolation(field=field, description=text) for field, text in _violations(problem)]
    return [_packed(info), *([_packed(error_details_pb2.BadRequest(field_violations=violations))] if violations else [])]


def _violations(problem: StepmeshError) -> list[tuple[str, str]]:
    """Which fields are to blame: the one that the gateway could not read, or what does not match a flow's schema."""
    field = getattr(problem, "field", "")
    if field:
        return [(field, problem.message)]
    data = getattr(problem, "data", None)
    told: list[Any] = data.get("violations", []) if isinstance(data, dict) else []
    return [(path, rest[:200] or path) for path, _, rest in (str(one)[:400].partition(": ") for one in told[:10])]


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def guarded(work: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    """`work`, whose errors end the call with their status. A cancelled call is the client's own doing and passes through."""

    async def answer(request: Any, context: Context) -> Any:
        try:
            return await work(request, context)
        except StepmeshError as problem:
            await refuse(context, status_of(problem), problem)
        except grpc.aio.AbortError:
            raise
        except Exception:
            await _unforeseen(context)

    return answer


def refuse_over_limit(problem: StepmeshError) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that refuses whatever is called, however it streams."""

    async def answer(requests: Any, context: Context) -> None:
        await refuse(context, status_of(problem), problem)

    made: Any = grpc.stream_stream_rpc_method_handler
    handler: grpc.RpcMethodHandler[Any, Any] = made(answer)
    return handler


async def _unforeseen(context: Context) -> None:
    await refuse(context, grpc.StatusCode.INTERNAL, defect("a call"))
