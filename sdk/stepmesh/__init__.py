"""Stepmesh for users: workers with components, a client, and flows in Python."""

from stepmesh.component import Components
from stepmesh.context import Context, current_context
from stepmesh.errors import (
    BlobNotFound,
    Cancelled,
    ComponentError,
    ErrorCode,
    FlowInvalid,
    FlowNotFound,
    InvalidInput,
    RequestRefused,
    ResourceUnavailable,
    RetryLater,
    RunFailed,
    RunNotFound,
    StepmeshError,
    WaitTimeout,
)
from stepmesh.instrument import Instrument
from stepmesh.runs import RunHandle
from stepmesh.worker import Worker

__all__ = [
    "BlobNotFound",
    "Cancelled",
    "ComponentError",
    "Components",
    "Context",
    "ErrorCode",
    "FlowInvalid",
    "FlowNotFound",
    "Instrument",
    "InvalidInput",
    "RequestRefused",
    "ResourceUnavailable",
    "RetryLater",
    "RunFailed",
    "RunHandle",
    "RunNotFound",
    "StepmeshError",
    "WaitTimeout",
    "Worker",
    "current_context",
]
