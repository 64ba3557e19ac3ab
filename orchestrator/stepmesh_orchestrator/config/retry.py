"""`retry`: the budget for transport errors, and the delays that steps without their own use."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from stepmesh_orchestrator.config.section import Section
from stepmesh_orchestrator.core.flow.compiled import Backoff
from stepmesh_orchestrator.core.flow.durations import parse_duration_ms

_USUAL = Backoff()
_MILLISECONDS = {"delayMs": "initial", "minDelayMs": "initial", "maxDelayMs": "max"}


class BackoffConfig(Section):
    """`{type, initial, max, factor, jitter}` with durations, or Stepflow's `delayMs`, `minDelayMs`, `maxDelayMs` (then without jitter)."""

    type: Literal["constant", "exponential", "fibonacci"] = "exponential"
    initial: int = _USUAL.initial_ms
    max: int = _USUAL.max_ms
    factor: float = Field(default=_USUAL.factor, ge=1, le=1_000)
    jitter: float = Field(default=_USUAL.jitter, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _milliseconds(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = {key: member for key, member in value.items() if member is not None}
        if given.keys() & _MILLISECONDS.keys():
            given.setdefault("jitter", 0)
        return {_MILLISECONDS.get(key, key): f"{member}ms" if key in _MILLISECONDS else member for key, member in given.items()}

    @field_validator("initial", "max", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> int:
        return parse_duration_ms(value)

    @model_validator(mode="after")
    def _ordered(self) -> BackoffConfig:
        if self.max < self.initial and "max" in self.model_fields_set:
            raise ValueError("`max` is shorter than `initial`")
        return self

    def compiled(self) -> Backoff:
        """As the engine takes it."""
        return Backoff(self.type, self.initial, max(self.max, self.initial), self.factor, self.jitter)


class RetryConfig(Section):
    """Retries of transport errors, and the deployment's backoff."""

    transport_max_retries: int = Field(default=3, ge=0, le=1_000_000)
    backoff: BackoffConfig = BackoffConfig()
