"""Where telemetry goes: settings, exporters, and the span file. `settings`, `pipeline` and `span_file` load without OpenTelemetry."""

from stepmesh_broker.telemetry.settings import Configured, TelemetrySettings, read

__all__ = ["Configured", "TelemetrySettings", "read"]
