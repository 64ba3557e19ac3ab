"""What the chaos monkey does, and when: a plan made from a seed before the run begins.

Pure. A kill is placed by progress, not by time: at a share of the expected component executions, so that it finds work under way.
"""

from __future__ import annotations

import random
from typing import Literal, NamedTuple, get_args

Target = Literal["worker", "orchestrator", "broker", "all", "wipe"]
"""`all`: worker processes, orchestrator and broker at once. `wipe`: orchestrator and broker, and everything that the broker stored."""
EARLIEST, LATEST = 0.04, 0.8


class Kill(NamedTuple):
    """`at`: share of the expected executions; `pick`: 0..1, chooses among several victims."""

    at: float
    target: Target
    pick: float


def plan(seed: int) -> tuple[Kill, ...]:
    """A worker, the orchestrator and the broker at least once each, and one to three more of any kind; in order of progress."""
    dice = random.Random(f"stepmesh chaos {seed}")
    targets: list[Target] = ["worker", "orchestrator", "broker"]
    targets += dice.choices(get_args(Target), k=dice.randint(1, 3))
    return tuple(sorted(Kill(round(dice.uniform(EARLIEST, LATEST), 3), target, dice.random()) for target in targets))
