"""gRPC statuses → errors of the catalogue: what a gateway, or the way to it, says no with."""

from __future__ import annotations

import re

import grpc
import grpc.aio

from stepmesh_broker.errors import BrokerError, BrokerUnavailable, MalformedMessage, MessageTooLarge

_CODED = re.compile(r"(SM-\d{4}) (.*)", re.DOTALL)
_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED})
_LATER = _AWAY | {grpc.StatusCode.RESOURCE_EXHAUSTED}  # a gateway that is full may have room again
_KINDS: dict[str, type[BrokerError]] = {kind.default_code: kind for kind in (BrokerUnavailable, MalformedMessage, MessageTooLarge)}


class GatewayRefused(BrokerError):
    """Not retryable: the gateway, or what answers in its place, does not do what was asked."""

    default_code = "SM-7311"


def error_of(status: grpc.StatusCode, details: str | None, target: str) -> BrokerError:
    """The error for a call to `target` that ended with `status`."""
    text = details or status.name
    coded = _CODED.match(text)
    if coded is not None:
        return _KINDS.get(coded[1], BrokerUnavailable if status in _LATER else GatewayRefused)(coded[2], code=coded[1])
    if status in _AWAY:
        return BrokerUnavailable(f"no answer from the gateway {target}: {text}", hint="is it up, and is the address right?")
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return GatewayRefused(f"{target} is no Stepmesh gateway: {text}", hint="give the port of `stepmesh server` or `stepmesh gateway`")
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return MessageTooLarge(f"the gateway {target} refused a message: {text}", hint="store large payloads as blobs, or raise the limit")
    return GatewayRefused(f"the gateway {target} answered {status.name}: {text}", hint="see its log")


def raised(problem: grpc.aio.AioRpcError, target: str) -> BrokerError:
    """The same for what a call raised."""
    return error_of(problem.code(), problem.details(), target)


def unreachable(problem: grpc.aio.AioRpcError) -> bool:
    """Whether no gateway answered, so that another one might."""
    return problem.code() is grpc.StatusCode.UNAVAILABLE and _CODED.match(problem.details() or "") is None
