"""What a body meets: a step that failed for good, a failure that nothing is to be tried again for, a call in the wrong place."""

from __future__ import annotations

from stepmesh.durable.durations import Duration, seconds
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.messages import ErrorCode, Failure


class BadWorkflow(StepmeshError):
    """SM-1073: a workflow, step or app cannot be declared so; with the code of what lint found when that is the reason."""

    default_code = "SM-1073"


class StepFailed(Exception):
    """A step, call or child failed for good. `cause`: what it said last."""

    def __init__(self, name: str, attempts: int, cause: Failure) -> None:
        super().__init__(f"{name} failed after {attempts} attempt{'s' if attempts > 1 else ''}: {cause.message}")
        self.name = name
        self.attempts = attempts
        self.cause = cause

    @property
    def code(self) -> ErrorCode:
        """Why, in the flow language's words."""
        return ErrorCode(self.cause.code)


class Fatal(Exception):
    """Raise it in a step to say that another attempt would not help, or in a workflow to end it."""


class RetryAfter(Exception):
    """Raise it in a step to ask for the next attempt no sooner than `after`: `"30s"`, seconds, or a timedelta."""

    def __init__(self, after: Duration, message: str = "") -> None:
        self.after_s = seconds(after)
        super().__init__(message or f"once more in {self.after_s:g} s")


class Continued(BaseException):
    """Leaves a body that said `wf.continue_as_new`: the run is over before it is raised, so whoever catches it only delays the end."""


class OutsideRun(StepmeshError):
    """SM-1020: something of a workflow was used where none runs."""

    default_code = "SM-1020"

    @classmethod
    def of(cls, what: str, where: str, *, in_step: bool, hint: str = "") -> OutsideRun:
        """`where`: `file:line` of the call."""
        place = "inside a step" if in_step else "outside of a run"
        usual = "do it in the workflow, before or after the step" if in_step else "start a workflow that does it"
        return cls(f"{what} was called {place} ({where})", hint=hint or usual)
