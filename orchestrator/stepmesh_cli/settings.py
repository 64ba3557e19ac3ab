"""Flags and a configuration → `DeploymentSettings`. A flag wins over the configuration, which wins over what the command is for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stepmesh_broker.protocol.ids import Namespace, Pool
from stepmesh_cli.errors import CommandError, NotAvailable
from stepmesh_cli.processes import WorkerProcess

if TYPE_CHECKING:
    from stepmesh_gateway.settings import GatewaySettings
    from stepmesh_orchestrator.config import Backend, Config


def worker_processes(modules: tuple[str, ...], count: int) -> tuple[WorkerProcess, ...]:
    """`count` processes of each `MODULE[:ATTR]`. Raises `CommandError` for a count below 1."""
    if count < 1:
        raise CommandError(f"--workers {count} is below 1", hint="leave --worker out to start none")
    command = (sys.executable, "-m", "stepmesh_cli", "worker")
    return tuple(
        WorkerProcess(_label(module, number if count > 1 else None), (*command, module))
        for module in modules
        for number in range(1, count + 1)
    )


def _label(module: str, number: int | None) -> str:
    name = Path(module.partition(":")[0]).name.removesuffix(".py").rpartition(".")[2]
    return name if number is None else f"{name}.{number}"


@dataclass(frozen=True, slots=True)
class Backends:
    """As `DeploymentSettings` takes them; None = nobody said."""

    broker: str | None
    journal: str | None
    partitions: int | None
    store: str | None = None
    blobs: Path | None = None


def configured(config: Config | None) -> Backends:
    """What the configuration says of broker, journal, store and partitions. Raises `NotAvailable` for what this version has not."""
    if config is None:
        return Backends(None, None, None)
    partitions = config.partitions if "partitions" in config.model_fields_set else None
    journal, store, blobs = _storage(config)
    return Backends(_broker(config), journal, partitions, store, blobs)


def gateway_settings(
    config: Config | None, namespace: str, *, host: str | None = None, port: int, grpc_port: int | None = None, advertised: str = ""
) -> GatewaySettings:
    """The gateway's, with the limits of the configuration. `advertised` may be a URL. Raises `CommandError` for a port that is none."""
    for one in (port, grpc_port or 0):
        if not 0 <= one <= 65535:
            raise CommandError(f"there is no port {one}", hint="ports go from 1 to 65535; 0 is any free one")
    from stepmesh_gateway.settings import GatewaySettings, Limits, NatsQueue

    limits = Limits()
    queues: tuple[NatsQueue, ...] = ()
    if config is not None:
        queues = tuple(NatsQueue(pool=Pool(pool), url=url, stream=stream) for pool, (url, stream) in config.streams().items())
        said = {name: getattr(config.limits, name) for name in Limits.__struct_fields__ if name in config.limits.model_fields_set}
        limits = Limits(**said)
    return GatewaySettings(
        namespace=Namespace(namespace),
        host=host or GatewaySettings().host,
        port=port,
        grpc_port=grpc_port,
        advertised=advertised.rpartition("://")[2].rstrip("/"),
        limits=limits,
        queues=queues,
    )


def _broker(config: Config) -> str | None:
    if "broker" not in config.model_fields_set:
        return None
    if config.broker.type == "kafka":
        raise NotAvailable("broker: type kafka is not in this version", hint="use memory, embedded or nats")
    return config.broker.url if config.broker.type == "nats" else config.broker.type


def _storage(config: Config) -> tuple[str | None, str | None, Path | None]:
    """Journal, store and folder of blobs. What outlives the process needs a journal that does as well, so that nothing contradicts it:
    a file for the metadata alone holds the journal too."""
    storage = config.storage_config
    if storage is None:
        return (None if config.journal is None else _place(config, config.journal)), None, None
    journal, store = _place(config, config.journal or storage.journal), _place(config, storage.metadata)
    blobs = storage.blobs
    if blobs.type != "filesystem":
        _place(config, blobs)
    folder = Path(config.working_directory or ".") / blobs.directory if blobs.type == "filesystem" and blobs.directory else None
    if journal == "memory":
        return store, None, folder
    return journal, None if store in ("memory", journal) else store, folder


def _place(config: Config, backend: Backend) -> str:
    if backend.type == "inMemory":
        return "memory"
    if backend.type != "sqlite":
        raise NotAvailable(f"storage of type {backend.type} is not in this version", hint="use inMemory or sqlite")
    path = (backend.database_url or "").removeprefix("sqlite:").partition("?")[0]
    path = path.removeprefix("//")
    if path in ("", ":memory:"):
        return "memory"
    return f"sqlite:{Path(config.working_directory or '.') / path}"
