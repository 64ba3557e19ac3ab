"""Stepmesh for users: workers with components, a client, flows in Python, and durable functions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    SubmissionsRefused,
    WaitTimeout,
)
from stepmesh.flow import Flow, retry, use_default
from stepmesh.instrument import Instrument
from stepmesh.producer import Producer, ProducerLimits
from stepmesh.runs import RunHandle
from stepmesh.values import Value, coalesce, if_
from stepmesh.worker import Worker

if TYPE_CHECKING:
    from stepmesh.durable import wf
    from stepmesh.durable.app import App
    from stepmesh.durable.errors import Fatal, RetryAfter, StepFailed
    from stepmesh.durable.events import Event
    from stepmesh.durable.lifetimes import FailedRun
    from stepmesh.durable.retrying import Retry
    from stepmesh.durable.simple import create_workflow, workflow

_LATE = {
    "App": "app", "Event": "events", "FailedRun": "lifetimes", "Fatal": "errors", "Retry": "retrying",
    "RetryAfter": "errors", "StepFailed": "errors",
    "create_workflow": "simple", "wf": "wf", "workflow": "simple",
}  # fmt: skip
"""Of durable functions, by module: who has none does not pay for their import."""


def __getattr__(name: str) -> Any:
    """What is imported when it is first asked for (PEP 562)."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"stepmesh.durable.{_LATE[name]}")
    return module if name == "wf" else getattr(module, name)


__all__ = [
    "App",
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
    "Event",
    "FailedRun",
    "Fatal",
    "Flow",
    "FlowInvalid",
    "FlowNotFound",
    "Instrument",
    "InvalidInput",
    "Producer",
    "ProducerLimits",
    "RequestRefused",
    "ResourceUnavailable",
    "Retry",
    "RetryAfter",
    "RetryLater",
    "RunFailed",
    "RunHandle",
    "RunNotFound",
    "StepFailed",
    "StepmeshError",
    "SubmissionsRefused",
    "Value",
    "WaitTimeout",
    "Worker",
    "coalesce",
    "create_workflow",
    "current_context",
    "if_",
    "retry",
    "use_default",
    "wf",
    "workflow",
]
