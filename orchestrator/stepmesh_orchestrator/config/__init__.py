"""The configuration file of a deployment."""

from stepmesh_orchestrator.config.errors import ConfigInvalid
from stepmesh_orchestrator.config.loading import find_config, load_config, parse_config
from stepmesh_orchestrator.config.models import Config
from stepmesh_orchestrator.config.plugins import (
    BuiltinPlugin,
    GrpcPlugin,
    KafkaPlugin,
    McpPlugin,
    MockBehavior,
    MockComponent,
    MockPlugin,
    NatsPlugin,
    Plugin,
    WorkerPlugin,
)
from stepmesh_orchestrator.config.storage import Backend, StorageConfig

__all__ = [
    "Backend",
    "BuiltinPlugin",
    "Config",
    "ConfigInvalid",
    "GrpcPlugin",
    "KafkaPlugin",
    "McpPlugin",
    "MockBehavior",
    "MockComponent",
    "MockPlugin",
    "NatsPlugin",
    "Plugin",
    "StorageConfig",
    "WorkerPlugin",
    "find_config",
    "load_config",
    "parse_config",
]
