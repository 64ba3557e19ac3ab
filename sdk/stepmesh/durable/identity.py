"""Which run and which code a body belongs to: what `wf.info()` tells, and what every message about a body begins with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


def _none() -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Identity:
    """`version`: of the code that runs now, `recorded`: of the code that the run began with, "" when that is not known; both
    `3+4f2c1e9a0b1d`: what was declared, and the hash of the function's source. `attempt`: of the run, from 1. `suspects`: lines of the body
    that lint finds."""

    run: str = ""
    workflow: str = "workflow"
    version: str = ""
    recorded: str = ""
    attempt: int = 1
    suspects: Callable[[], Sequence[str]] = _none

    @property
    def same_build(self) -> bool:
        """Whether the run began with this very code, as far as that is known."""
        return bool(self.version) and self.version == self.recorded

    def __str__(self) -> str:
        """`run 0190… (order_saga 3+4f2c1e9a0b1d, begun on 2+9a77d0c1…)`."""
        begun = f", begun on {self.recorded}" if self.recorded and self.recorded != self.version else ""
        version = f" {self.version}" if self.version else ""
        return f"{self.run or '?'} ({self.workflow}{version}{begun})"
