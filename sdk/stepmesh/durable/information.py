"""What a body, or a step, may know of itself, and a logger that a replay does not make speak again."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stepmesh.context import current_context
from stepmesh.durable.attempts import StepInfo, in_step
from stepmesh.durable.callsite import here
from stepmesh.durable.errors import OutsideRun
from stepmesh.durable.execution import executing
from stepmesh.durable.steps import running
from stepmesh.errors import NoContext


@dataclass(frozen=True)
class Info:
    """Of the run: `version` is that of the code that runs now, `attempt` counts from 1."""

    run: str
    workflow: str
    version: str
    attempt: int
    started: datetime


def info() -> Info:
    """Of the run that calls. Raises `OutsideRun`."""
    execution = running("wf.info")
    identity = execution.identity
    started = datetime.fromtimestamp(execution.started_ms / 1000, UTC)
    return Info(identity.run, identity.workflow, identity.version, identity.attempt, started)


def step() -> StepInfo:
    """Of the step that calls, local or of a pool. Raises `OutsideRun`."""
    found = in_step.get(None)
    if found is not None:
        return found
    try:
        context = current_context()
    except NoContext as problem:
        raise OutsideRun.of("wf.step()", here(), in_step=False, hint="call it in the function of a step") from problem
    return StepInfo(
        context.component.rpartition("/")[2], context.step_id, context.run_id, context.attempt, context.idempotency_key, context.heartbeat
    )


class _Silent(logging.LoggerAdapter[logging.Logger]):
    """Says nothing that it has said before: lines of a body that is replayed are left out. A body that asked for nothing after a line may
    say that line again."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # logging's name
        execution = executing.get(None)
        return (execution is None or not execution.replaying) and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        execution = executing.get(None)
        if execution is not None:
            known = {"run_id": execution.run, "workflow": execution.identity.workflow}
            kwargs["extra"] = {**known, **(kwargs.get("extra") or {})}
        return msg, kwargs


logger = _Silent(logging.getLogger("stepmesh.workflow"), {})
