"""Errors as gRPC statuses, with standard status details (`google.rpc.ErrorInfo`: reason is the SM code, metadata has the hint)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from stepmesh_broker.errors import StepmeshError
from stepmesh_gateway.translate.kinds import kind_of

log = logging.getLogger("stepmesh.gateway")

Context = grpc.aio.ServicerContext[Any, Any]
_STATUS = {status.value[0]: status for status in grpc.StatusCode}


def status_of(problem: StepmeshError) -> grpc.StatusCode:
    """The status for an error."""
    return _STATUS[kind_of(problem).value[0]]


async def refuse(context: Context, status: grpc.StatusCode, problem: StepmeshError) -> NoReturn:
    """End the call with a status; the message says what to do as well."""
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=problem.code, domain="stepmesh", metadata={"hint": problem.hint}))
    rich = rpc_status.to_status(status_pb2.Status(code=status.value[0], message=str(problem), details=[detail]))
    await context.abort(rich.code, rich.details, rich.trailing_metadata)
    raise AssertionError("abort raises")


def guarded(work: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    """`work`, whose errors end the call with their status."""

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


def guarded_stream(work: Callable[[Any, Context], AsyncIterator[Any]]) -> Callable[[Any, Context], AsyncIterator[Any]]:
    """The same for a streamed answer."""

    async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for message in work(request, context):
                yield message
        except StepmeshError as problem:
            await refuse(context, status_of(problem), problem)
        except grpc.aio.AbortError:
            raise
        except Exception:
            await _unforeseen(context)

    return answer


async def _unforeseen(context: Context) -> None:
    mark = secrets.token_hex(4)
    log.exception("SM-7900 a call failed (%s)", mark)
    problem = StepmeshError(f"the gateway failed to answer (log entry {mark})", code="SM-7900", hint="report it with that log entry")
    await refuse(context, grpc.StatusCode.INTERNAL, problem)
