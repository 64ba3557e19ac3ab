"""The telemetry flags of `stepflow-server`, as the OpenTelemetry variables that Stepmesh reads (docs/telemetry.md). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from stepmesh_cli.errors import CommandError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class OtlpFlags:
    """As stepflow-server takes them."""

    trace_enabled: Annotated[bool, Parameter(help="Export traces.", env_var="STEPFLOW_TRACE_ENABLED")] = False
    metrics_enabled: Annotated[bool, Parameter(help="Export metrics.", env_var="STEPFLOW_METRICS_ENABLED")] = False
    otlp_endpoint: Annotated[
        str | None, Parameter(help="OTLP over HTTP, for example http://localhost:4318.", env_var="STEPFLOW_OTLP_ENDPOINT")
    ] = None

    def environment(self) -> dict[str, str]:
        """Nothing unless something is enabled. Raises `CommandError` when it is, and nobody said where to."""
        if not (self.trace_enabled or self.metrics_enabled):
            return {}
        if self.otlp_endpoint is None:
            raise CommandError("--trace-enabled and --metrics-enabled want --otlp-endpoint", hint="--otlp-endpoint http://localhost:4318")
        found = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp_endpoint}
        if not self.trace_enabled:
            found["OTEL_TRACES_EXPORTER"] = "none"
        if not self.metrics_enabled:
            found["OTEL_METRICS_EXPORTER"] = "none"
        return found


NO_OTLP = OtlpFlags()
