"""An OTLP receiver in this process: what came in, as protobuf."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Receiver:
    """What came in, and with which headers."""

    url: str
    traces: list[Any] = field(default_factory=list)
    metrics: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def spans(self) -> list[tuple[str, Any]]:
        """(service, span)."""
        found: list[tuple[str, Any]] = []
        for request in self.traces:
            for resource in request.resource_spans:
                service = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
                found += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        return found

    def latest(self) -> dict[str, Any]:
        """The newest state of each metric by name."""
        found: dict[str, Any] = {}
        for request in self.metrics:
            for resource in request.resource_metrics:
                found |= {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
        return found


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Runs meanwhile."""
    holder: list[Receiver] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            kept, kind = {
                "/v1/traces": (holder[0].traces, ExportTraceServiceRequest),
                "/v1/metrics": (holder[0].metrics, ExportMetricsServiceRequest),
            }[self.path]
            holder[0].headers.append(dict(self.headers))
            kept.append(kind.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    holder.append(Receiver(f"http://127.0.0.1:{server.server_port}"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield holder[0]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
