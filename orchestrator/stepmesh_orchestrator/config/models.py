"""The whole configuration, and the router that follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stepmesh_broker.protocol.subjects import MAX_NAME
from stepmesh_orchestrator.config.plugins import BuiltinPlugin, Plugin, PoolName
from stepmesh_orchestrator.config.retry import RetryConfig
from stepmesh_orchestrator.config.section import Section
from stepmesh_orchestrator.config.storage import Backend, StorageConfig
from stepmesh_orchestrator.core.evolve.addresses import MAX_TAKEN
from stepmesh_orchestrator.core.flow import paths
from stepmesh_orchestrator.core.flow.findings import nearest
from stepmesh_orchestrator.core.flow.paths import Path
from stepmesh_orchestrator.core.flow.routing import Condition, Pattern, Router, Rule, default_router


class ConditionConfig(Section):
    """Holds when the step's input has `value` at `path`."""

    path: str
    value: Any = None

    @field_validator("path")
    @classmethod
    def _is_a_path(cls, value: str) -> str:
        paths.parse(value)
        return value


_KNOWN_PARAMS = frozenset({"queueName", "queue_name", "stream"})


class RouteRule(Section):
    """One rule of a route. Further keys are parameters of the plugin, here or under `params`; `queueName` picks the pool, `stream` that of
    a `nats` plugin."""

    plugin: str
    conditions: list[ConditionConfig] = Field(default_factory=list)
    component_allow: list[str] | None = None
    component_deny: list[str] = Field(default_factory=list)
    queue_name: PoolName | None = None
    stream: PoolName | None = None
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _queue_among_params(cls, value: Any) -> Any:
        """Stepflow knows parameters in both places."""
        params = value.get("params") if isinstance(value, dict) else None
        if not isinstance(params, dict):
            return value
        queue, stream = params.get("queueName", params.get("queue_name")), params.get("stream")
        found = {} if queue is None or {"queueName", "queue_name"} & value.keys() else {"queueName": queue}
        return {**({} if stream is None else {"stream": stream}), **value, **found}

    def unused(self) -> list[str]:
        """Parameters that have no effect here."""
        given = [*(self.model_extra or {}), *(f"params.{name}" for name in self.params if name not in _KNOWN_PARAMS)]
        return [name for name in given if not name.startswith("x-")]

    def unknown_keys(self, path: Path = ()) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """None: what is not known here is a parameter."""
        return iter(())


class BrokerConfig(Section):
    """What carries tasks and results. `embedded` starts a NATS server of its own. `replicas` of what is made on a cluster."""

    type: Literal["memory", "embedded", "nats", "kafka"] = "embedded"
    url: str | None = None
    credentials: str | None = None
    bootstrap_servers: str | None = None
    directory: str | None = None
    replicas: int | None = Field(default=None, ge=1, le=9)

    @model_validator(mode="after")
    def _has_its_place(self) -> BrokerConfig:
        if self.type == "nats" and not self.url:
            raise ValueError("a nats broker wants `url`")
        if self.type == "kafka" and not (self.bootstrap_servers or self.url):
            raise ValueError("a kafka broker wants `bootstrapServers`, or `url`")
        return self


class RecoveryConfig(Section):
    """Named as Stepflow does. Recovery itself cannot be switched off here: a shard always recovers what it owns."""

    enabled: bool = True
    check_interval_secs: float = Field(default=30, gt=0)
    max_startup_recovery: int = Field(default=100, ge=0)
    max_claims_per_check: int = Field(default=10, ge=0)
    lease_ttl_secs: float = Field(default=30, gt=0)
    checkpoint_interval: int = Field(default=1_000, ge=0)


class BlobApiConfig(Section):
    """`blobThreshold` in bytes: larger payloads travel as blob references; 0 = never."""

    enabled: bool = True
    url: str | None = None
    blob_threshold: int = Field(default=1_048_576, ge=0)


class LeaseManagerConfig(Section):
    """Who grants partitions: this process alone, or etcd."""

    type: Literal["noOp", "none", "etcd"] = "noOp"
    endpoints: list[str] = Field(default_factory=list)
    key_prefix: str = Field(default="/stepflow/leases", alias="key_prefix")


class LimitsConfig(Section):
    """What one deployment accepts. `maxConcurrency` is the default of a run tree (0 = no limit); sizes in bytes.
    `retentionHours`: how long the journal keeps the history of what is over. From `messageBytes` to `unreadEvents`: of a gateway.
    `eventRetentionHours` and `eventsPerAddress`: how long, and how many, events from outside are kept for waits to come; `eventBytes`: the
    data of one, `keptEventBytes`: all that a partition keeps."""

    max_concurrency: int = Field(default=10, ge=0)
    items: int = Field(default=1_000_000, ge=1)
    retention_hours: float = Field(default=168, gt=0)
    payload_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    document_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    message_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    assignment_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    header_bytes: int = Field(default=16 * 1024, ge=1024)
    streams_per_worker: int = Field(default=4, ge=1)
    streams: int = Field(default=10_000, ge=1)
    request_s: float = Field(default=300, gt=0)
    arrival_s: float = Field(default=30, gt=0)
    idle_s: float = Field(default=60, gt=0)
    connections: int = Field(default=10_000, ge=1)
    unread_events: int = Field(default=1_000, ge=1)
    event_retention_hours: float = Field(default=168, gt=0)
    events_per_address: int = Field(default=1_000, ge=1, le=MAX_TAKEN)
    event_bytes: int = Field(default=256 * 1024, ge=1024)
    kept_event_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)


class FlowControlConfig(Section):
    """`namespaces`: of tenants that share this deployment, or `any`. `weights`: places that a namespace gets in each round, 1 if it is not
    named. `poolWindow`: tasks of one pool in flight beyond twice what its workers take at once, at most, for each partition; 0: no
    limit, and no fair shares. `breakerAfter`: bad outcomes of a component that open its breaker; 0 = never."""

    namespaces: list[PoolName] | Literal["any"] = Field(default_factory=list)
    weights: dict[str, Annotated[int, Field(ge=1, le=1_000)]] = Field(default_factory=dict)
    pool_window: int = Field(default=4_000, ge=0)
    breaker_after: int = Field(default=10, ge=0, le=20)


class TelemetryConfig(Section):
    """OpenTelemetry over OTLP/HTTP, or into a file of spans; off without either (docs/telemetry.md)."""

    endpoint: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    sample_ratio: float = Field(default=1, ge=0, le=1)
    service_name: str | None = None
    trace_file: str | None = None


def _builtin_only() -> dict[str, Plugin]:
    return {"builtin": BuiltinPlugin()}


class Config(Section):
    """A configuration file. All that is absent has the default of a single node."""

    plugins: dict[str, Plugin] = Field(default_factory=_builtin_only)
    routes: dict[str, list[RouteRule]] = Field(default_factory=dict)
    storage_config: StorageConfig | None = None
    working_directory: str | None = None
    retry: RetryConfig = RetryConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    blob_api: BlobApiConfig = BlobApiConfig()
    lease_manager: LeaseManagerConfig = LeaseManagerConfig()
    broker: BrokerConfig = BrokerConfig()
    journal: Backend | None = None
    durability: Literal["fsync", "replicated", "process"] | None = None
    partitions: int = Field(default=16, ge=1, le=1_024)
    auth: dict[str, Any] = Field(default_factory=dict)
    limits: LimitsConfig = LimitsConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    flow_control: FlowControlConfig = FlowControlConfig()

    def problems(self) -> Iterator[tuple[Path, str]]:
        """What does not fit together, with its place."""
        for name, plugin in self.plugins.items():
            try:
                plugin.pool_of(name)
            except ValueError as problem:
                yield ("plugins", name), str(problem)
            if plugin.type == "nats" and plugin.stream is None and not self._streams_of(name):
                yield ("plugins", name), "a nats plugin wants `stream`, here or in its routes"
        for pattern, rules in self.routes.items():
            try:
                Pattern(pattern)
            except ValueError as problem:
                yield ("routes", pattern), str(problem)
            for index, rule in enumerate(rules):
                if rule.plugin not in self.plugins:
                    near = ", ".join(nearest(rule.plugin, self.plugins) or list(self.plugins)[:5])
                    yield ("routes", pattern, index, "plugin"), f"there is no plugin `{rule.plugin[:60]}`; nearest: {near}"
                elif len(self.pool_of(rule)) > MAX_NAME:
                    yield ("routes", pattern, index, "stream"), f"plugin and stream together have more than {MAX_NAME - 1} characters"

    def pool_of(self, rule: RouteRule) -> str:
        """Where a rule's tasks go. A stream that is not its plugin's own has a pool of its own."""
        plugin = self.plugins[rule.plugin]
        if rule.queue_name is not None:
            return rule.queue_name
        own = plugin.type != "nats" or rule.stream in (None, plugin.stream)
        return plugin.pool_of(rule.plugin) if own else f"{rule.plugin}-{rule.stream}"

    def streams(self) -> dict[str, tuple[str, str]]:
        """Pool → URL and stream of the NATS server that its tasks go to."""
        found: dict[str, tuple[str, str]] = {}
        for name, plugin in self.plugins.items():
            if plugin.type == "nats" and plugin.stream is not None:
                found[plugin.pool_of(name)] = (plugin.url, plugin.stream)
        for rules in self.routes.values():
            for rule in rules:
                plugin = self.plugins[rule.plugin]
                if plugin.type == "nats" and (stream := rule.stream or plugin.stream) is not None:
                    found[self.pool_of(rule)] = (plugin.url, stream)
        return found

    def _streams_of(self, plugin: str) -> bool:
        rules = [rule for rules in self.routes.values() for rule in rules if rule.plugin == plugin]
        return bool(rules) and all(rule.stream is not None for rule in rules)

    def router(self) -> Router:
        """By `routes`; without any, `/builtin/…` and `/<pool>/<component…>`."""
        if not self.routes:
            return default_router({plugin.pool_of(name): plugin.limits() for name, plugin in self.plugins.items()})
        return Router({pattern: [self._rule(rule) for rule in rules] for pattern, rules in self.routes.items()})

    def _rule(self, rule: RouteRule) -> Rule:
        limits = self.plugins[rule.plugin].limits()
        return Rule(
            plugin=rule.plugin,
            pool=self.pool_of(rule),
            conditions=tuple(Condition(paths.parse(condition.path), condition.value) for condition in rule.conditions),
            allow=None if rule.component_allow is None else tuple(rule.component_allow),
            deny=tuple(rule.component_deny),
            timeout_ms=limits.timeout_ms,
            queue_ms=limits.queue_ms,
        )
