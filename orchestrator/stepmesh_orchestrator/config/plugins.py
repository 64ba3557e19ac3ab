"""`plugins`: what can execute components, by type, and the pool that each one's tasks go to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.protocol.subjects import checked_name
from stepmesh_orchestrator.config.section import Section
from stepmesh_orchestrator.core.flow.jsontext import dumps, loads
from stepmesh_orchestrator.core.flow.routing import Limits

PoolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
ErrorName = Literal[
    "TIMEOUT", "INVALID_INPUT", "COMPONENT_FAILED", "CANCELLED", "UNREACHABLE",
    "COMPONENT_NOT_FOUND", "RESOURCE_UNAVAILABLE", "EXPRESSION_FAILURE", "ORCHESTRATOR_ERROR", "WORKER_ERROR",
]  # fmt: skip


def _ms(seconds: float | None) -> int:
    """At least one for anything above 0; 0 = none."""
    return 0 if not seconds else max(1, round(seconds * 1000))


class _Plugin(Section):
    def pool_of(self, name: str) -> str:
        """The pool of the plugin that is configured as `name`. Raises `ValueError` when that is no name of a pool."""
        try:
            return checked_name("plugin", name)
        except BrokerError as problem:
            raise ValueError(f"{problem.message} of a pool; {problem.hint}") from problem

    def limits(self) -> Limits:
        """Of its tasks."""
        return Limits()


class _Launched(_Plugin):
    """A plugin that may start its own worker processes. Without `command` workers come by themselves."""

    command: str | None = None
    args: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)


class _Queued(_Launched):
    queue_name: PoolName | None = None
    queue_timeout_secs: float = Field(default=30, gt=0)
    execution_timeout_secs: float | None = Field(default=None, gt=0)

    def pool_of(self, name: str) -> str:
        return self.queue_name or super().pool_of(name)

    def limits(self) -> Limits:
        """The limit of the wait is one only when somebody asked for it: a long queue is not an error."""
        waits = self.queue_timeout_secs if "queue_timeout_secs" in self.model_fields_set else 0
        return Limits(_ms(self.execution_timeout_secs), _ms(waits))


class BuiltinPlugin(_Plugin):
    """The built-in components, in the orchestrator's own pool."""

    type: Literal["builtin"] = "builtin"

    def pool_of(self, name: str) -> str:
        return "builtin"


class MockError(Section):
    """An error as the flow language writes it."""

    code: ErrorName = "COMPONENT_FAILED"
    message: str = "mock error"
    data: Any = None


class MockBehavior(Section):
    """A mock component's answer to one input: `{outcome: success, result}`, `{outcome: failed, error}` or, short, `{error: message}`;
    after `delay_ms`."""

    outcome: Literal["success", "failed"]
    result: Any = None
    error: MockError | None = None
    delay_ms: float = Field(default=0, ge=0, alias="delay_ms")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("error"), str):
            return {"outcome": "failed", **value, "error": {"message": value["error"]}}
        return value

    @model_validator(mode="after")
    def _one_of_both(self) -> MockBehavior:
        if self.outcome == "success" and self.error is not None:
            raise ValueError("a success has no `error`")
        if self.outcome == "failed" and self.error is None:
            raise ValueError("a failure wants an `error`")
        return self


class MockComponent(Section):
    """One component of a mock plugin. `behaviors`: input as JSON text → answer."""

    input_schema: Any = Field(default=None, alias="input_schema")
    output_schema: Any = Field(default=None, alias="output_schema")
    description: str = ""
    behaviors: dict[str, MockBehavior] = Field(default_factory=dict)

    @field_validator("behaviors", mode="before")
    @classmethod
    def _inputs_are_json(cls, value: Any) -> Any:
        """Keys become compact JSON with sorted keys, so that a look-up need not mind spaces and order."""
        return {_compact(key): behavior for key, behavior in value.items()} if isinstance(value, dict) else value

    def answer(self, input: Any) -> MockBehavior | None:
        """The behaviour for an input (plain value); objects match in any order of their keys."""
        return self.behaviors.get(_sorted_json(input))


def _compact(key: str) -> str:
    try:
        return _sorted_json(loads(key.encode()))
    except ValueError as problem:
        raise ValueError(f"the input {key[:60]!r} is not JSON") from problem


def _sorted_json(value: Any) -> str:
    return dumps(_sorted(value)).decode()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return list(map(_sorted, value)) if isinstance(value, list) else value


class MockPlugin(_Plugin):
    """Components with canned answers, for tests. `components`: path → component."""

    type: Literal["mock"]
    components: dict[str, MockComponent] = Field(default_factory=dict)


class GrpcPlugin(_Queued):
    """Workers that fetch tasks over gRPC."""

    type: Literal["grpc"]


class NatsPlugin(_Queued):
    """Workers on a NATS server of their own."""

    type: Literal["nats"]
    url: str
    stream: PoolName | None = None
    consumer: str | None = None


class KafkaPlugin(_Queued):
    """Workers on a Kafka cluster."""

    type: Literal["kafka"]
    bootstrap_servers: str
    topic: str | None = None


class McpPlugin(_Launched):
    """Tools of a Model Context Protocol server: a command to start, or a URL. `startTimeoutSecs`: how long it may take to tell its tools;
    `executionTimeoutSecs`: limit of one attempt."""

    type: Literal["mcp"]
    url: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    start_timeout_secs: float = Field(default=60, gt=0)
    execution_timeout_secs: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_way_in(self) -> McpPlugin:
        if (self.command is None) == (self.url is None):
            raise ValueError("an mcp plugin wants either `command` or `url`")
        return self


class WorkerPlugin(_Launched):
    """Workers of the SDK. With `command`, this many processes are started beside the orchestrator."""

    type: Literal["worker"]
    pool: PoolName | None = None
    instances: int = Field(default=1, ge=0, le=1_000)

    def pool_of(self, name: str) -> str:
        return self.pool or super().pool_of(name)


Plugin = Annotated[
    BuiltinPlugin | MockPlugin | GrpcPlugin | NatsPlugin | KafkaPlugin | McpPlugin | WorkerPlugin, Field(discriminator="type")
]
