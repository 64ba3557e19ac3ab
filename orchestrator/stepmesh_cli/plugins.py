"""From a configuration to what a deployment starts: routing, engine settings, pools served here, worker processes.

Pure: a configuration in, values out. What this version cannot start becomes a warning that names the plugin, because a flow may
never use it. It must not start anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stepmesh_broker.protocol.api import Queue
from stepmesh_broker.protocol.ids import Pool
from stepmesh_cli.processes import WorkerProcess
from stepmesh_components.mcp_server import McpServer
from stepmesh_orchestrator.core.flow.routing import Router, default_router
from stepmesh_orchestrator.core.session import EngineSettings

if TYPE_CHECKING:
    from stepmesh_orchestrator.config import Config, GrpcPlugin, McpPlugin, NatsPlugin, WorkerPlugin
    from stepmesh_orchestrator.config.section import Section


@dataclass(frozen=True, slots=True)
class Parts:
    """`prefixes`: pool → how a flow writes its components. `mocks`: pool → path → component, as `mock_worker` takes it. `mcp`: servers
    whose tools are components. `awaited`: plugins whose workers come to the gateway by themselves; `streams`: pools that the
    gateway serves over NATS. `file_roots`: what `/load_file` may
    read. `warnings`: one line each, for a person. `queues`: the pools that routes lead to; None = any name is one. `tenants`: namespaces
    that share the deployment; None = any."""

    router: Router
    engine: EngineSettings = field(default_factory=EngineSettings)
    prefixes: dict[str, str] = field(default_factory=dict[str, str])
    mocks: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict[str, dict[str, dict[str, Any]]])
    processes: tuple[WorkerProcess, ...] = ()
    mcp: tuple[McpServer, ...] = ()
    awaited: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    file_roots: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    queues: tuple[Queue, ...] | None = None
    tenants: tuple[str, ...] | None = ()

    @property
    def speak_to_broker(self) -> bool:
        """Whether a worker process among these wants a broker that other processes reach."""
        return any(process.through == "broker" for process in self.processes)

    @property
    def wants_gateway(self) -> bool:
        """Whether workers of these speak to a gateway only."""
        return bool(self.streams) or any(process.through == "gateway" for process in self.processes)


def parts_of(config: Config | None) -> Parts:
    """What `config` asks for; the defaults of the language without one."""
    if config is None:
        return Parts(default_router())
    mocks: dict[str, dict[str, dict[str, Any]]] = {}
    processes: list[WorkerProcess] = []
    servers: list[McpServer] = []
    warnings: list[str] = []
    awaited: list[str] = []
    for name, plugin in config.plugins.items():
        if plugin.type == "mock":
            mocks[plugin.pool_of(name)] = {
                path: component.model_dump(by_alias=True, exclude_unset=True) for path, component in plugin.components.items()
            }
        elif plugin.type == "worker" or plugin.type == "nats" or plugin.type == "grpc":
            processes.extend(_processes(name, plugin, config))
            awaited.extend([name] if plugin.type == "grpc" and plugin.command is None else [])
        elif plugin.type == "mcp":
            servers.append(_mcp_server(name, plugin, config))
        elif plugin.type != "builtin":
            warnings.append(f"plugin {name}: workers over {plugin.type} cannot be reached by this version; its steps wait")
    warnings.extend(f"{key}: this version accepts the key, and does nothing with it" for key in _without_effect(config))
    roots = () if config.working_directory is None else (config.working_directory,)
    started = (tuple(processes), tuple(servers), tuple(awaited), tuple(config.streams()))
    tenants = None if config.flow_control.namespaces == "any" else tuple(config.flow_control.namespaces)
    return Parts(config.router(), _engine(config), _prefixes(config), mocks, *started, roots, tuple(warnings), _queues(config), tenants)


def unreachable(parts: Parts) -> Iterator[str]:
    """Warnings for a deployment without a gateway that others know."""
    for name in parts.awaited:
        yield f"plugin {name}: its workers come over gRPC, and nothing listens for them here; use `stepmesh server`, or give it a `command`"


def _without_effect(config: Config) -> list[str]:
    """Keys that are given, known (Stepflow has them, or a later version will), and not used here."""
    found = [
        *_given(config, "", "recovery", "blob_api", "lease_manager", "auth"),
        *_given(config.limits, "limits.", "document_bytes"),
        *_given(config.broker, "broker.", "directory", "credentials"),
    ]
    for pattern, rules in config.routes.items():
        found += [f"routes.{pattern}[{index}].{name}" for index, rule in enumerate(rules) for name in rule.unused()]
    return found


def _given(section: Section, place: str, *fields: str) -> list[str]:
    """Those of the fields that the file sets, as it writes them."""
    return [f"{place}{type(section).model_fields[name].alias}" for name in fields if name in section.model_fields_set]


def _engine(config: Config) -> EngineSettings:
    return EngineSettings(
        transport_max_retries=config.retry.transport_max_retries,
        backoff=config.retry.backoff.compiled(),
        default_max_concurrency=config.limits.max_concurrency,
        max_items=config.limits.items,
        retain_ms=int(config.limits.retention_hours * 3_600_000),
        keep_events_ms=int(config.limits.event_retention_hours * 3_600_000),
        events_per_address=config.limits.events_per_address,
        event_bytes=config.limits.event_bytes,
        kept_event_bytes=config.limits.kept_event_bytes,
        pool_window=config.flow_control.pool_window,
        weights=config.flow_control.weights,
        breaker_after=config.flow_control.breaker_after,
    )


def _prefixes(config: Config) -> dict[str, str]:
    """The shortest route of each pool."""
    found: dict[str, str] = {}
    for pattern in sorted(config.routes, key=len, reverse=True):
        for rule in config.routes[pattern]:
            found[config.pool_of(rule)] = pattern.removesuffix("{*component}").removesuffix("{component}").rstrip("/")
    return found


def _queues(config: Config) -> tuple[Queue, ...] | None:
    """By plugin, then those that a rule names. Without routes the first part of a path is the pool, so that any name is one."""
    if not config.routes:
        return None
    prefixes = _prefixes(config)
    named = {plugin.pool_of(name): name for name, plugin in config.plugins.items()}
    for rules in config.routes.values():
        for rule in rules:
            named.setdefault(config.pool_of(rule), rule.plugin)
    return tuple(Queue(Pool(pool), name, config.plugins[name].type, prefixes.get(pool, "")) for pool, name in named.items())


def _mcp_server(name: str, plugin: McpPlugin, config: Config) -> McpServer:
    return McpServer(
        name=name,
        pool=plugin.pool_of(name),
        command=plugin.command,
        args=tuple(plugin.args),
        env=plugin.env,
        folder=config.working_directory,
        url=plugin.url,
        headers=plugin.headers,
        start_timeout_s=plugin.start_timeout_secs,
    )


def _processes(name: str, plugin: WorkerPlugin | NatsPlugin | GrpcPlugin, config: Config) -> list[WorkerProcess]:
    if plugin.command is None:
        return []
    count = plugin.instances if plugin.type == "worker" else 1
    environment = {"STEPMESH_POOL": plugin.pool_of(name), **_of_stepflow(name, plugin, config), **plugin.env}
    command = (plugin.command, *plugin.args)
    return [
        WorkerProcess(
            name if count == 1 else f"{name}.{number + 1}",
            command,
            environment,
            config.working_directory,
            "broker" if plugin.type == "worker" else "gateway",
        )
        for number in range(count)
    ]


def _of_stepflow(name: str, plugin: WorkerPlugin | NatsPlugin | GrpcPlugin, config: Config) -> dict[str, str]:
    """What Stepflow's workers look for, beside the addresses, which are known once the gateway listens."""
    if plugin.type == "worker":
        return {}
    found = {"STEPFLOW_TRANSPORT": plugin.type, "STEPFLOW_QUEUE_NAME": plugin.pool_of(name)}
    if plugin.type == "nats":
        given = {"URL": plugin.url, "STREAM": plugin.stream, "CONSUMER": plugin.consumer}
        found |= {f"STEPFLOW_NATS_{key}": value for key, value in given.items() if value is not None}
    return found
