"""Why a worker's stream or call is refused."""

from __future__ import annotations

from stepmesh_broker.errors import StepmeshError


class TooManyStreams(StepmeshError):
    """A limit of open task streams is reached."""

    default_code = "SM-7101"


class UnknownQueue(StepmeshError):
    """No route of the deployment leads to this queue."""

    default_code = "SM-7102"


class TaskGone(StepmeshError):
    """Nobody waits for this task."""

    default_code = "SM-7103"


class NotReady(StepmeshError):
    """The task's partition recovers, or the broker is away."""

    default_code = "SM-7104"


class GatewayStops(StepmeshError):
    """This gateway goes away."""

    default_code = "SM-7105"


class BadCall(StepmeshError):
    """A worker's message lacks something."""

    default_code = "SM-7106"
