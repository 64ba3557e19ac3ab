"""Exit codes, and which error ends with which. Pure."""

from __future__ import annotations

from stepmesh_broker.errors import StepmeshError

OK = 0
FAILED = 1
"""A run or a check failed, or a part broke."""
USAGE = 2
"""A wrong call or bad input: correct it and call again."""
UNREACHABLE = 3
"""No deployment answered."""
INTERRUPTED = 130
"""Ctrl-C."""
TERMINATED = 143
"""SIGTERM."""
BROKEN_PIPE = 141
"""The reader of our output went away."""

_EXACT = {
    "SM-0110": UNREACHABLE,  # no endpoint found
    "SM-0199": FAILED,  # a defect
    "SM-1060": USAGE,  # a token that is unknown, settled or expired
    "SM-1070": USAGE,  # a duration that cannot be read
    "SM-1095": USAGE,  # no live worker has that version
    "SM-1096": USAGE,  # a run without functions has no version
    "SM-1097": USAGE,  # it may be several versions
    "SM-1098": USAGE,  # an empty text is none
    "SM-3004": USAGE,  # a name that no subject can hold
    "SM-3010": USAGE,  # no nats-server installed
    "SM-3011": USAGE,  # port in use
    "SM-3012": USAGE,  # data folder unusable
    "SM-3013": USAGE,  # data folder has another owner
    "SM-3040": USAGE,  # no address of a NATS server
    "SM-3041": USAGE,  # this user may not do that
    "SM-3042": USAGE,  # the NATS server is too old
    "SM-5101": FAILED,  # the run failed
    "SM-5102": FAILED,  # the wait is over
    "SM-5110": UNREACHABLE,  # a partition has no owner
    "SM-7007": UNREACHABLE,  # the gateway stops
    "SM-7900": FAILED,  # a defect of the gateway
}
_BY_RANGE = {"SM-0": USAGE, "SM-2": USAGE, "SM-3": UNREACHABLE, "SM-4": FAILED, "SM-5": USAGE, "SM-6": USAGE, "SM-7": USAGE}


def exit_code(problem: StepmeshError) -> int:
    """By the error's code; what is not listed failed."""
    return _EXACT.get(problem.code, _BY_RANGE.get(problem.code[:4], FAILED))
