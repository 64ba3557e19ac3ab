"""Whether and where telemetry goes, from the standard OpenTelemetry variables and the `telemetry` block of a configuration.

Off unless an endpoint or a span file is named. The environment wins over the configuration. Must not import OpenTelemetry: this is
what decides that it is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from stepmesh_broker.errors import StepmeshError

_SAMPLERS = {"always_on": 1.0, "always_off": 0.0, "traceidratio": None}
_PARENT_BASED = "parentbased_"


@dataclass(frozen=True, slots=True)
class Configured:
    """The `telemetry` block of a configuration. `endpoint`: base URL of an OTLP/HTTP receiver; `sample_ratio`: share of the traces
    that begin here which are recorded, 0 … 1; `service_name`: None = by the kind of process."""

    endpoint: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    sample_ratio: float = 1.0
    service_name: str | None = None
    trace_file: str | None = None


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """`traces_url` and `metrics_url` are of OTLP over HTTP; `headers` go beside those of OTEL_EXPORTER_OTLP_HEADERS; `interval_s`:
    between two exports of metrics, in seconds."""

    traces_url: str | None = None
    metrics_url: str | None = None
    trace_file: Path | None = None
    sampling: float = 1.0
    interval_s: float = 10.0
    headers: Mapping[str, str] = field(default_factory=dict)
    service_name: str | None = None

    def environment(self) -> dict[str, str]:
        """Variables that make another process send to the same places."""
        found = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": self.traces_url,
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": self.metrics_url,
            "STEPMESH_TRACE_FILE": None if self.trace_file is None else str(self.trace_file),
            "OTEL_SERVICE_NAME": self.service_name,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(self.sampling),
            "OTEL_EXPORTER_OTLP_HEADERS": ",".join(f"{name}={quote(value)}" for name, value in self.headers.items()) or None,
        }
        return {name: value for name, value in found.items() if value is not None}


OFF = Configured()


def read(environ: Mapping[str, str], configured: Configured = OFF) -> TelemetrySettings | None:
    """None when telemetry is off. Raises `StepmeshError` SM-0120 for a value that cannot be used."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or configured.endpoint
    trace_file = environ.get("STEPMESH_TRACE_FILE") or configured.trace_file
    traces = _url(environ, "TRACES", base)
    metrics = _url(environ, "METRICS", base)
    if not (traces or metrics or trace_file):
        return None
    return TelemetrySettings(
        traces,
        metrics,
        Path(trace_file) if trace_file else None,
        _sampling(environ, configured.sample_ratio),
        _interval_s(environ),
        configured.headers,
        configured.service_name,
    )


def _url(environ: Mapping[str, str], signal: str, base: str | None) -> str | None:
    """The signal's own variable is taken as it is; a base URL gets the path that OTLP/HTTP defines."""
    if environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() == "none":
        return None
    own = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    if own or not base:
        return own or None
    return f"{base.rstrip('/')}/v1/{signal.lower()}"


def _sampling(environ: Mapping[str, str], configured: float) -> float:
    """OTEL_TRACES_SAMPLER with its _ARG; a decision that came with a traceparent always stands, so `parentbased_` adds nothing."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower().removeprefix(_PARENT_BASED)
    if not name:
        return _ratio(configured, "telemetry.sampleRatio")
    if name not in _SAMPLERS:
        raise _bad(f"OTEL_TRACES_SAMPLER names {name!r}", "use always_on, always_off or traceidratio, alone or after parentbased_")
    fixed = _SAMPLERS[name]
    return _ratio(environ.get("OTEL_TRACES_SAMPLER_ARG") or 1.0, "OTEL_TRACES_SAMPLER_ARG") if fixed is None else fixed


def _ratio(value: object, what: str) -> float:
    ratio = _number(value, what)
    if not 0.0 <= ratio <= 1.0:
        raise _bad(f"{what} is {value}", "give a share from 0 to 1")
    return ratio


def _interval_s(environ: Mapping[str, str]) -> float:
    interval = _number(environ.get("OTEL_METRIC_EXPORT_INTERVAL") or 10_000, "OTEL_METRIC_EXPORT_INTERVAL") / 1000
    if not interval > 0:
        raise _bad(f"OTEL_METRIC_EXPORT_INTERVAL is {interval * 1000:g}", "give milliseconds above 0")
    return interval


def _number(value: object, what: str) -> float:
    try:
        return float(str(value))
    except ValueError as problem:
        raise _bad(f"{what} is {value!r}, which is no number", "give a number") from problem


def _bad(message: str, hint: str) -> StepmeshError:
    return StepmeshError(message, code="SM-0120", hint=hint)
