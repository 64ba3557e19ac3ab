"""Flags and a configuration → what is deployed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stepmesh_broker.protocol.messages import Failure
from stepmesh_cli.errors import CommandError, NotAvailable
from stepmesh_cli.plugins import parts_of, unreachable
from stepmesh_cli.processes import WorkerProcess
from stepmesh_cli.settings import Backends, configured, gateway_settings, worker_processes
from stepmesh_components.mcp_server import McpServer
from stepmesh_gateway.settings import GatewaySettings, Limits
from stepmesh_orchestrator.config import Config, ConfigInvalid, parse_config
from stepmesh_orchestrator.core.flow.routing import Route


def config(text: str) -> Config:
    return parse_config(text, {})[0]


def test_each_module_gets_its_processes() -> None:
    one = worker_processes(("steps.py", "pkg.gpu:worker"), 1)
    assert [process.label for process in one] == ["steps", "gpu"]
    assert one[1].command == (sys.executable, "-m", "stepmesh_cli", "worker", "pkg.gpu:worker")
    assert [process.label for process in worker_processes(("dir/steps.py",), 2)] == ["steps.1", "steps.2"]
    assert [process.label for process in worker_processes(("a.py", "a.py:gpu", "b.py"), 1)] == ["a:worker", "a:gpu", "b"]
    assert worker_processes((), 1) == ()


def test_no_processes_of_a_worker_is_a_wrong_call() -> None:
    with pytest.raises(CommandError, match="--workers 0 is below 1"):
        worker_processes(("steps.py",), 0)


def test_a_configuration_that_says_nothing_leaves_the_choice() -> None:
    assert configured(None) == Backends(None, None, None)
    assert configured(config("{}")) == Backends(None, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("broker: {type: memory}", Backends("memory", None, None)),
        ("broker: {type: embedded}", Backends("embedded", None, None)),
        ("broker: {type: nats, url: 'nats://host:4222'}", Backends("nats://host:4222", None, None)),
        ("partitions: 4", Backends(None, None, 4)),
        ("storageConfig: {type: inMemory}", Backends(None, "memory", None)),
        ("storageConfig: {type: sqlite, databaseUrl: 'sqlite:a.db'}", Backends(None, "sqlite:a.db", None)),
        ("storageConfig: {type: sqlite, databaseUrl: 'sqlite://a.db?mode=rwc'}", Backends(None, "sqlite:a.db", None)),
        ("storageConfig: {type: sqlite, databaseUrl: 'sqlite:///x/a.db'}", Backends(None, "sqlite:/x/a.db", None)),
        ("storageConfig: {type: sqlite, databaseUrl: 'sqlite::memory:'}", Backends(None, "memory", None)),
        (
            "storageConfig: {metadata: {type: sqlite, databaseUrl: 'sqlite:m.db'}, journal: {type: inMemory}}",
            Backends(None, "sqlite:m.db", None),
        ),
        (
            "storageConfig: {metadata: {type: inMemory}, journal: {type: sqlite, databaseUrl: 'sqlite:j.db'}}",
            Backends(None, "sqlite:j.db", None),
        ),
        (
            "storageConfig: {metadata: {type: sqlite, databaseUrl: 'sqlite:m.db'}, journal: {type: sqlite, databaseUrl: 'sqlite:j.db'}}",
            Backends(None, "sqlite:j.db", None, "sqlite:m.db"),
        ),
        (
            "storageConfig: {metadata: {type: inMemory}, blobs: {type: filesystem, directory: b}}",
            Backends(None, "memory", None, None, Path("b")),
        ),
        ("storageConfig: {metadata: {type: inMemory}, blobs: {type: filesystem}}", Backends(None, "memory", None)),
        ("broker: {type: kafka, bootstrapServers: 'a:9092,b:9092'}", Backends("kafka://a:9092,b:9092", None, None)),
        ("broker: {type: kafka, url: 'kafka://me:pw@a:9092', replicas: 3}", Backends("kafka://me:pw@a:9092?replicas=3", None, None)),
        ("broker: {type: nats, url: 'nats://a:1,b:2', replicas: 3}", Backends("nats://a:1,b:2?replicas=3", None, None)),
        ("storageConfig: {type: postgres, databaseUrl: 'postgres://h/db'}", Backends(None, "postgres://h/db", None)),
        (
            "storageConfig: {metadata: {type: postgres, databaseUrl: 'postgres://h/db'}, journal: {type: inMemory}}",
            Backends(None, "postgres://h/db", None),
        ),
        (
            "storageConfig: {metadata: {type: postgres, databaseUrl: 'postgres://h/db'}, journal: {type: redis, url: 'redis://h'}}",
            Backends(None, "redis://h", None, "postgres://h/db"),
        ),
        (
            "storageConfig: {metadata: {type: sqlite, databaseUrl: 'sqlite:m.db'},"
            " journal: {type: kafka, url: 'kafka://h:1?tls=true', replicas: 3}}",
            Backends(None, "kafka://h:1?tls=true&replicas=3", None, "sqlite:m.db"),
        ),
        ("journal: {type: nats, url: 'nats://host'}", Backends(None, "nats://host", None)),
        ("{broker: {type: nats, url: u}, journal: {type: nats}}", Backends("u", "broker", None)),
        ("{journal: {type: broker}, durability: replicated}", Backends(None, "broker", None, durability="replicated")),
        ("{storageConfig: {type: inMemory}, journal: {type: sqlite, databaseUrl: 'sqlite:j.db'}}", Backends(None, "sqlite:j.db", None)),
    ],
)
def test_a_configuration_chooses_backends(text: str, expected: Backends) -> None:
    assert configured(config(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "storageConfig: {type: redis, url: 'redis://host'}",
        "{broker: {type: kafka, bootstrapServers: 'h:1'}, journal: {type: nats}}",
        "storageConfig: {metadata: {type: inMemory}, blobs: {type: redis, url: 'redis://host'}}",
        "storageConfig: {metadata: {type: sqlite, databaseUrl: 'sqlite:m.db'}, blobs: {type: postgres, databaseUrl: 'postgres://h/d'}}",
    ],
)
def test_what_this_version_has_not_is_refused(text: str) -> None:
    with pytest.raises(NotAvailable, match=r"not in this version|names no `url`") as caught:
        configured(config(text))
    assert caught.value.hint


def test_without_a_configuration_the_first_segment_is_the_pool() -> None:
    assert parts_of(None).router.route("/gpu/embed", b"null") == Route("gpu", "gpu", "/embed")


def test_plugins_become_pools_mocks_and_processes() -> None:
    parts = parts_of(
        config(
            """
            plugins:
              builtin: {type: builtin}
              fake: {type: mock, components: {/say: {behaviors: {'{"b":1,"a":2}': {outcome: success, result: 3}, '1': {error: no}}}}}
              cpu: {type: worker, command: python, args: [w.py], env: {A: b}, instances: 2}
              idle: {type: worker, pool: other}
              tools: {type: mcp, command: x, args: [y], env: {A: b}, executionTimeoutSecs: 5}
              stream: {type: kafka, bootstrapServers: "host:9092"}
            routes: {/f: [{plugin: fake}], "/c/{*component}": [{plugin: cpu}], /i: [{plugin: idle}]}
            retry: {transportMaxRetries: 7, backoff: {type: constant, delayMs: 10}}
            limits: {maxConcurrency: 3, items: 5}
            """
        )
    )
    behaviors = parts.mocks["fake"]["/say"]["behaviors"]
    assert behaviors['{"a":2,"b":1}'] == {"outcome": "success", "result": 3}
    assert behaviors["1"] == {"outcome": "failed", "error": {"message": "no"}}
    assert [(process.label, process.command, dict(process.environment)) for process in parts.processes] == [
        ("cpu.1", ("python", "w.py"), {"STEPMESH_POOL": "cpu", "A": "b"}),
        ("cpu.2", ("python", "w.py"), {"STEPMESH_POOL": "cpu", "A": "b"}),
    ]
    assert parts.prefixes == {"fake": "/f", "cpu": "/c", "other": "/i"}
    assert parts.engine.transport_max_retries == 7
    assert parts.engine.backoff.initial_ms == 10
    assert (parts.engine.default_max_concurrency, parts.engine.max_items) == (3, 5)
    assert parts.mcp == (McpServer(name="tools", pool="tools", command="x", args=("y",), env={"A": "b"}),)
    assert [line.split(":")[0] for line in parts.warnings] == ["plugin stream"]
    assert isinstance(parts.router.route("/nowhere/x", b"null"), Failure)


def test_keys_that_do_nothing_here_are_named() -> None:
    config, _ = parse_config(
        "plugins: {b: {type: builtin}, far: {type: grpc, queueName: q, executionTimeoutSecs: 5, queueTimeoutSecs: 9}}\n"
        "routes: {/far: [{plugin: far, queueName: q, colour: red, params: {queueName: r, size: 3}}]}\n"
        "recovery: {enabled: false}\nlimits: {documentBytes: 2048, items: 5}\n",
        {},
    )
    named = {line.split(":")[0] for line in parts_of(config).warnings}
    assert {"recovery", "limits.documentBytes", "routes./far[0].colour", "routes./far[0].params.size"} <= named
    assert not any("Timeout" in name or "queueName" in name for name in named)
    assert "limits.items" not in named


def test_every_limit_of_a_gateway_is_a_key_with_the_same_default() -> None:
    defaults = config("{}").limits
    assert {name: getattr(defaults, name) for name in Limits.__struct_fields__} == {
        name: getattr(Limits(), name) for name in Limits.__struct_fields__
    }


def test_a_gateway_gets_what_flags_and_configuration_say() -> None:
    assert gateway_settings(None, "default", port=0) == GatewaySettings()
    said = gateway_settings(
        config("limits: {payloadBytes: 4096, message_bytes: 8192, requestS: 5, items: 7}"),
        "team",
        host="0.0.0.0",
        port=7840,
        advertised="http://gateway.internal:80/",
    )
    assert said.limits == Limits(payload_bytes=4096, message_bytes=8192, request_s=5)
    assert (said.namespace, said.host, said.port, said.advertised) == ("team", "0.0.0.0", 7840, "gateway.internal:80")


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_a_wrong_call(port: int) -> None:
    with pytest.raises(CommandError, match="there is no port"):
        gateway_settings(None, "default", port=port)


STREAMS = """
plugins:
  bus: {type: nats, url: "nats://n:4222", stream: S}
  far: {type: nats, url: "nats://m:4222"}
routes:
  /a: [{plugin: bus}]
  /b: [{plugin: bus, stream: Other}]
  /c: [{plugin: bus, params: {stream: Third, queueName: q}}]
  /d: [{plugin: far, stream: F}]
"""


def test_streams_of_nats_plugins_have_pools_of_their_own() -> None:
    found = config(STREAMS)
    queues = {queue.pool: (queue.url, queue.stream) for queue in gateway_settings(found, "default", port=0).queues}
    assert queues == {
        "bus": ("nats://n:4222", "S"),
        "bus-Other": ("nats://n:4222", "Other"),
        "q": ("nats://n:4222", "Third"),
        "far-F": ("nats://m:4222", "F"),
    }
    parts = parts_of(found)
    assert {queue.pool for queue in parts.queues or ()} == {*queues, "far"}
    assert parts.wants_gateway
    assert parts.router.route("/b/x", b"null") == Route("bus", "bus-Other", "/x")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plugins: {bus: {type: nats, url: u}}\nroutes: {/a: [{plugin: bus}]}", "a nats plugin wants `stream`"),
        ("plugins: {bus: {type: nats, url: u, stream: 'a.b'}}", "pattern"),
        (f"plugins: {{{'b' * 40}: {{type: nats, url: u}}}}\nroutes: {{/a: [{{plugin: {'b' * 40}, stream: {'s' * 40}}}]}}", "more than 63"),
    ],
)
def test_a_stream_that_cannot_be_is_named(text: str, told: str) -> None:
    with pytest.raises(ConfigInvalid, match=told):
        config(text)


STEPFLOW = """
plugins:
  py: {type: grpc, queueName: python, command: uv, args: [run, worker], env: {HOME: h}}
  far: {type: grpc, queueName: gpu, queueTimeoutSecs: 30, executionTimeoutSecs: null}
  bus: {type: nats, url: "nats://n:4222", stream: S, consumer: c, command: uv}
routes: {/python: [{plugin: py}], /gpu: [{plugin: far}], /bus: [{plugin: bus}]}
"""


def test_workers_of_stepflow_find_their_queue_in_the_environment() -> None:
    parts = parts_of(config(STEPFLOW))
    assert [(one.label, one.through, dict(one.environment)) for one in parts.processes] == [
        ("py", "gateway", {"STEPMESH_POOL": "python", "STEPFLOW_TRANSPORT": "grpc", "STEPFLOW_QUEUE_NAME": "python", "HOME": "h"}),
        (
            "bus",
            "gateway",
            {
                "STEPMESH_POOL": "bus",
                "STEPFLOW_TRANSPORT": "nats",
                "STEPFLOW_QUEUE_NAME": "bus",
                "STEPFLOW_NATS_URL": "nats://n:4222",
                "STEPFLOW_NATS_STREAM": "S",
                "STEPFLOW_NATS_CONSUMER": "c",
            },
        ),
    ]
    assert parts.wants_gateway
    assert not parts.speak_to_broker
    assert [line.split(":")[0] for line in unreachable(parts)] == ["plugin far"]


def test_the_addresses_of_a_plugin_win_over_ours() -> None:
    process = WorkerProcess("w", ("x",), {"STEPFLOW_BLOB_URL": "blobs:1"}).reaching(
        {"STEPFLOW_BLOB_URL": "here:1", "STEPMESH_URL": "grpc://here:1"}
    )
    assert process.environment == {"STEPFLOW_BLOB_URL": "blobs:1", "STEPMESH_URL": "grpc://here:1"}


@pytest.mark.parametrize(
    "text",
    [
        "broker: {type: kafka}",
        "journal: {type: redis}",
        "journal: {type: kafka}",
        "storageConfig: {type: broker}",
        "broker: {type: nats, url: u, replicas: 0}",
        "durability: strong",
    ],
)
def test_a_server_without_an_address_and_a_durability_that_is_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid):
        config(text)


def test_a_password_comes_from_the_environment() -> None:
    text = "storageConfig: {type: postgres, databaseUrl: 'postgres://me:${PW}@h/db'}"
    assert configured(parse_config(text, {"PW": "s3cret"})[0]).journal == "postgres://me:s3cret@h/db"


@pytest.mark.parametrize(
    ("journal", "store", "expected"),
    [
        (None, None, "sqlite:file.db"),
        ("memory", None, None),
        (None, "sqlite:flag.db", "sqlite:flag.db"),
        ("redis://h", "postgres://h/d", "postgres://h/d"),
    ],
)
def test_the_store_of_the_file_goes_with_the_journal_of_the_file(journal: str | None, store: str | None, expected: str | None) -> None:
    assert Backends(None, "sqlite:x.db", None, "sqlite:file.db").store_for(journal, store) == expected


def test_how_events_are_kept_is_configured() -> None:
    said = "limits: {eventRetentionHours: 0.5, eventsPerAddress: 7, eventBytes: 2048, keptEventBytes: 4096}"
    engine = parts_of(config(said)).engine
    assert (engine.keep_events_ms, engine.events_per_address, engine.event_bytes, engine.kept_event_bytes) == (1_800_000, 7, 2048, 4096)
    assert parts_of(config("{}")).engine == parts_of(None).engine
