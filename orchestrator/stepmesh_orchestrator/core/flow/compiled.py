"""A flow after compilation: frozen indexes and plans, shared by all runs of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from stepmesh_broker.protocol.ids import FlowId
from stepmesh_orchestrator.core.flow.plan import Plan
from stepmesh_orchestrator.core.gates import Rule


class ErrorAction(Enum):
    """What a step does with an error that is left after the retries its class allows."""

    FAIL = "fail"
    USE_DEFAULT = "useDefault"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delay before a retry, in ms. `kind`: constant, exponential or fibonacci; `jitter` in 0..1 is the random share of the delay."""

    kind: str = "exponential"
    initial_ms: int = 1_000
    max_ms: int = 60_000
    factor: float = 2.0
    jitter: float = 1.0


@dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """`onError`. `default` is the plan of `defaultValue`; None with USE_DEFAULT means null, None with RETRY means "fail when spent"."""

    action: ErrorAction = ErrorAction.FAIL
    max_retries: int = 3
    default: Plan | None = None
    backoff: Backoff | None = None  # None: the deployment's


class Validator(Protocol):
    """A compiled JSON Schema."""

    def violations(self, value: bytes) -> list[str]:
        """Empty when `value` (JSON) is valid; else one line per violation, each beginning with the JSON path (`$.a[0]: …`). At most 20."""
        ...


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """One step. `timeout_ms` 0 = none."""

    index: int
    id: str
    component: str
    input: Plan
    skip: Plan | None
    on_error: ErrorPolicy
    must_execute: bool
    timeout_ms: int
    pool: str | None
    priority: int
    concurrency_key: Plan | None
    concurrency_limit: int
    output_schema: Validator | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Variable:
    """A declared variable. `default` is JSON text, explicit or implied by the type; None with `required` means that a run must give it."""

    name: str
    required: bool
    default: bytes | None
    secret: bool
    env_var: str | None
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GatePlan:
    """What runs pass before they begin. `kind`: debounce, concurrency or throttle. `key` None: one for all runs of the flow."""

    kind: str
    key: Plan | None
    rule: Rule


@dataclass(frozen=True, slots=True)
class CompiledFlow:
    """`document` is the compact JSON whose SHA-256 is `id`. `dependents[i]`: the steps whose skip, input or default mention step i,
    ascending; the index `len(steps)` there stands for the flow's output. `idempotency`: the key by which submissions are the same one."""

    id: FlowId
    name: str
    document: bytes
    steps: tuple[CompiledStep, ...]
    output: Plan
    must_execute: tuple[int, ...]
    dependents: tuple[tuple[int, ...], ...]
    input_schema: Validator | None
    output_schema: Validator | None
    variables: dict[str, Variable]
    variables_schema: Validator | None
    gates: tuple[GatePlan, ...] = ()
    idempotency: Plan | None = None

    def step_index(self, step_id: str) -> int | None:
        """The index of a step id; None when there is none. Linear: for people, not for the hot path."""
        return next((step.index for step in self.steps if step.id == step_id), None)
