"""The instrument of this process, if the environment asks for one. Must not import OpenTelemetry unless it does."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING

from stepmesh_broker.telemetry.pipeline import missing, open_pipeline
from stepmesh_broker.telemetry.settings import TelemetrySettings, read

if TYPE_CHECKING:
    from stepmesh.otel import OtelInstrument

_opened: list[tuple[TelemetrySettings, str, OtelInstrument]] = []


def configured(service: str) -> OtelInstrument | None:
    """As the environment says; None when telemetry is off. Raises `StepmeshError` SM-0120 or SM-0121."""
    return instrument(read(os.environ), service)


def instrument(settings: TelemetrySettings | None, service: str) -> OtelInstrument | None:
    """None for None. One per settings and service name of a process; what it holds is sent when the process exits.

    Raises `StepmeshError` SM-0121 when the OpenTelemetry packages are not installed.
    """
    if settings is None:
        return None
    for known, name, made in _opened:
        if known == settings and name == service:
            return made
    return _open(settings, service)


def flush() -> None:
    """Send what is queued, now: before an exit that runs no exit handlers. Blocks."""
    for _, _, made in _opened:
        made.flush()


def _open(settings: TelemetrySettings, service: str) -> OtelInstrument:
    try:
        from stepmesh.otel import OtelInstrument, share
    except ImportError as problem:
        raise missing(problem) from problem

    made = OtelInstrument(open_pipeline(settings, service))
    share(made)
    _opened.append((settings, service, made))
    atexit.register(made.close)
    return made
