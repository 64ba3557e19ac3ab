"""When results of local steps are journaled: each before the body goes on, or those of idempotent steps some at a time."""

from __future__ import annotations

from stepmesh.durable.durations import BadDuration, seconds
from stepmesh.durable.errors import BadWorkflow

EACH = "each"
_BATCH = "batch:"
MOST_S = 10.0
"""So much may be done again after a crash, seconds."""


def ahead_s(workflow: str, checkpoint: str) -> float:
    """For how long (seconds) a body goes on with what idempotent steps gave before it is journaled: 0 for `"each"`, 0.05 for
    `"batch:50ms"`. Raises `BadWorkflow`."""
    if checkpoint == EACH:
        return 0.0
    try:
        found = seconds(checkpoint.removeprefix(_BATCH)) if checkpoint.startswith(_BATCH) else 0.0
    except BadDuration:
        found = 0.0
    if not 0 < found <= MOST_S:
        raise BadWorkflow(
            f"checkpoint={checkpoint!r} of the workflow `{workflow}` says no time up to {MOST_S:g} s",
            hint=f'write "{EACH}", or "{_BATCH}50ms": results of idempotent steps are journaled so long after they came at most',
        )
    return found
