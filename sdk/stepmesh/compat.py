"""Names under which Stepflow's Python SDK knows the same things, so that its components run with changed imports only."""

from __future__ import annotations

from stepmesh.context import Context as StepflowContext
from stepmesh.errors import ComponentError as StepflowError
from stepmesh.errors import InvalidInput
from stepmesh.worker import Worker as StepflowWorker

__all__ = ["StepflowContext", "StepflowError", "StepflowValueError", "StepflowWorker"]


class StepflowValueError(InvalidInput, ValueError):
    """A value that the component was given does not work: INVALID_INPUT, never retried."""
