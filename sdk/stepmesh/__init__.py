"""Stepmesh for users: workers with components, a client, and flows in Python."""

from stepmesh.client import Client
from stepmesh.component import Components
from stepmesh.context import Context, current_context
from stepmesh.errors import (
    BadComponent,
    BadFlow,
    BlobNotFound,
    Cancelled,
    ComponentError,
    EndpointNotFound,
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
from stepmesh.flow import Flow, retry, use_default
from stepmesh.instrument import Instrument
from stepmesh.runs import RunHandle
from stepmesh.values import Value, coalesce, if_
from stepmesh.worker import Worker

__all__ = [
    "BadComponent",
    "BadFlow",
    "BlobNotFound",
    "Cancelled",
    "Client",
    "ComponentError",
    "Components",
    "Context",
    "EndpointNotFound",
    "ErrorCode",
    "Flow",
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
    "Value",
    "WaitTimeout",
    "Worker",
    "coalesce",
    "current_context",
    "if_",
    "retry",
    "use_default",
]
