"""Why a worker's stream or call is refused."""

from __future__ import annotations

from stepmesh_broker.errors import StepmeshError


class UnknownQueue(StepmeshError):
    """No route of the deployment leads to this queue."""

    default_code = "SM-7201"


class TaskGone(StepmeshError):
    """Nobody waits for this task."""

    default_code = "SM-7202"


class NotReady(StepmeshError):
    """The task's partition recovers, or the broker is away."""

    default_code = "SM-7203"


class GatewayStops(StepmeshError):
    """This gateway goes away; its workers connect to another one."""

    default_code = "SM-7204"
