"""What a caller is told of an exception that nobody foresaw: nothing of it but a mark, which the log explains."""

from __future__ import annotations

import logging
import secrets

from stepmesh_broker.errors import StepmeshError

log = logging.getLogger("stepmesh.gateway")


def defect(call: str) -> StepmeshError:
    """Log the exception that is being handled; the error to answer `call` with."""
    mark = secrets.token_hex(4)
    log.exception("SM-7900 %s failed (%s)", call, mark)
    return StepmeshError(f"the gateway failed to answer (log entry {mark})", code="SM-7900", hint="report it with that log entry")
