"""Whether telemetry is on, and where it goes: environment over configuration, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.telemetry import Configured, TelemetrySettings, read

BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318/"}


def on(environ: dict[str, str], configured: Configured | None = None) -> TelemetrySettings:
    settings = read(environ, configured or Configured())
    assert settings is not None
    return settings


def test_it_is_off_unless_something_is_named() -> None:
    assert read({}) is None
    assert read({"OTEL_TRACES_SAMPLER": "always_on", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}) is None


@pytest.mark.parametrize("value", ["true", "TRUE", " true "])
def test_the_standard_switch_turns_everything_off(value: str) -> None:
    assert read({**BASE, "OTEL_SDK_DISABLED": value}, Configured(trace_file="spans.jsonl")) is None


def test_the_switch_set_to_anything_else_does_not() -> None:
    assert on({**BASE, "OTEL_SDK_DISABLED": "false"}).traces_url == "http://otel:4318/v1/traces"


def test_a_base_url_gets_the_paths_of_the_signals() -> None:
    settings = on(BASE)
    assert (settings.traces_url, settings.metrics_url) == ("http://otel:4318/v1/traces", "http://otel:4318/v1/metrics")


def test_a_signals_own_url_is_taken_as_it_is() -> None:
    settings = on({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces:9/custom"})
    assert (settings.traces_url, settings.metrics_url) == ("http://traces:9/custom", None)


def test_a_signal_can_be_left_out() -> None:
    assert on({**BASE, "OTEL_METRICS_EXPORTER": "none"}).metrics_url is None
    assert read({**BASE, "OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "none"}) is None


def test_the_environment_wins_over_the_configuration() -> None:
    configured = Configured(endpoint="http://file:1", sample_ratio=0.5, trace_file="a.jsonl")
    settings = on({**BASE, "STEPMESH_TRACE_FILE": "b.jsonl", "OTEL_TRACES_SAMPLER": "always_off"}, configured)
    assert (settings.traces_url, settings.trace_file, settings.sampling) == ("http://otel:4318/v1/traces", Path("b.jsonl"), 0.0)


def test_the_configuration_alone() -> None:
    settings = on({}, Configured(endpoint="http://file:1", headers={"a": "b"}, sample_ratio=0.25, service_name="mine"))
    assert (settings.metrics_url, settings.sampling, settings.headers) == ("http://file:1/v1/metrics", 0.25, {"a": "b"})
    assert settings.service_name == "mine"


@pytest.mark.parametrize(
    ("sampler", "argument", "ratio"),
    [
        ("always_on", "", 1.0), ("always_off", "", 0.0), ("traceidratio", "0.1", 0.1), ("parentbased_traceidratio", "0.2", 0.2),
        ("parentbased_always_on", "0.2", 1.0), ("parentbased_traceidratio", "", 1.0), ("traceidratio", "0", 0.0),
        ("traceidratio", "1", 1.0),
    ],
)  # fmt: skip
def test_samplers(sampler: str, argument: str, ratio: float) -> None:
    assert on({**BASE, "OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}).sampling == ratio


def test_the_interval_is_in_milliseconds_as_the_standard_says() -> None:
    assert on(BASE).interval_s == 10.0
    assert on({**BASE, "OTEL_METRIC_EXPORT_INTERVAL": "2500"}).interval_s == 2.5


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_SAMPLER": "jaeger_remote"}, {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.01"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "-0.01"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "some"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, {"OTEL_METRIC_EXPORT_INTERVAL": "0"},
        {"OTEL_METRIC_EXPORT_INTERVAL": "soon"},
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_the_fix(environ: dict[str, str]) -> None:
    with pytest.raises(StepmeshError) as caught:
        read(BASE | environ)
    assert caught.value.code == "SM-0120"
    assert next(iter(environ)) in str(caught.value) or "OTEL_TRACES_SAMPLER_ARG" in str(caught.value)
    assert caught.value.hint


def test_another_process_gets_the_same_settings() -> None:
    configured = Configured("http://file:1", {"authorization": "Bearer a,b"}, 0.25, "mine", "spans.jsonl")
    settings = on({}, configured)
    inherited = on(settings.environment())
    assert inherited.traces_url == settings.traces_url
    assert inherited.metrics_url == settings.metrics_url
    assert inherited.trace_file == settings.trace_file
    assert inherited.sampling == settings.sampling
    assert settings.environment()["OTEL_EXPORTER_OTLP_HEADERS"] == "authorization=Bearer%20a%2Cb"
    assert settings.environment()["OTEL_SERVICE_NAME"] == "mine"
