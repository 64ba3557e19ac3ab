"""Flags and a configuration → `DeploymentSettings`. A flag wins over the configuration, which wins over what the command is for."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stepmesh_broker.protocol.ids import Namespace, Pool
from stepmesh_cli.durability import Durability
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
    names = Counter(map(_name, modules))
    return tuple(
        WorkerProcess(_label(module, number if count > 1 else None, among_others=names[_name(module)] > 1), (*command, module))
        for module in modules
        for number in range(1, count + 1)
    )


def _name(module: str) -> str:
    return Path(module.partition(":")[0]).name.removesuffix(".py").rpartition(".")[2]


def _label(module: str, number: int | None, *, among_others: bool) -> str:
    """With its attribute where several workers of one module are started."""
    name = f"{_name(module)}:{module.partition(':')[2] or 'worker'}" if among_others else _name(module)
    return name if number is None else f"{name}.{number}"


@dataclass(frozen=True, slots=True)
class Backends:
    """As `DeploymentSettings` takes them; None = nobody said. A store without a journal of its own goes with the configuration's."""

    broker: str | None
    journal: str | None
    partitions: int | None
    store: str | None = None
    blobs: Path | None = None
    durability: Durability | None = None

    def store_for(self, journal: str | None, store: str | None) -> str | None:
        """The store beside the flags `--journal` and `--store`: what the file says of it belongs to the file's journal."""
        return store if store is not None or journal is not None else self.store


def configured(config: Config | None) -> Backends:
    """What the configuration says of broker, journal, store and partitions. Raises `NotAvailable` for what this version has not."""
    if config is None:
        return Backends(None, None, None)
    partitions = config.partitions if "partitions" in config.model_fields_set else None
    journal, store, blobs = _storage(config)
    return Backends(_broker(config), journal, partitions, store, blobs, config.durability)


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
    said = config.broker
    return said.type if said.type in ("memory", "embedded") else _server(said.url, said.bootstrap_servers, said.replicas)


def _storage(config: Config) -> tuple[str | None, str | None, Path | None]:
    """Journal, store and folder of blobs. What outlives the process needs a journal that does as well, so that nothing contradicts it:
    a file for the metadata alone holds the journal too."""
    storage = config.storage_config
    if storage is None:
        return (None if config.journal is None else _place(config, config.journal)), None, None
    if storage.metadata.type == "redis":
        hint = "metadata: {type: postgres, …} or {type: sqlite, …}, and journal: {type: redis, …}"
        raise NotAvailable("metadata of type redis is not in this version: Redis holds the journal alone", hint=hint)
    journal, store = _place(config, config.journal or storage.journal), _place(config, storage.metadata)
    blobs = storage.blobs
    if blobs.type not in ("filesystem", "inMemory", storage.metadata.type):
        raise NotAvailable(
            f"blobs of type {blobs.type} beside metadata of type {storage.metadata.type}: that is not in this version",
            hint="blobs lie where the metadata lies, or in a folder: filesystem",
        )
    folder = Path(config.working_directory or ".") / blobs.directory if blobs.type == "filesystem" and blobs.directory else None
    if journal == "memory":
        return store, None, folder
    return journal, None if store in ("memory", journal) else store, folder


def _server(url: str | None, bootstrap: str | None, replicas: int | None) -> str:
    """Its URL, with how many replicas are wanted."""
    url = url or f"kafka://{bootstrap}"
    return url if replicas is None else f"{url}{'&' if '?' in url else '?'}replicas={replicas}"


def _place(config: Config, backend: Backend) -> str:
    if backend.type in ("inMemory", "broker"):
        return "memory" if backend.type == "inMemory" else "broker"
    if backend.type == "nats" and backend.url is None:
        if config.broker.type != "nats":
            raise NotAvailable("a journal of type nats names no `url`, and the broker is none of NATS", hint="name one, or use type broker")
        return "broker"
    if backend.type in ("redis", "nats", "kafka"):
        return _server(backend.url, backend.bootstrap_servers, backend.replicas)
    if backend.type == "postgres":
        return backend.database_url or ""
    path = (backend.database_url or "").removeprefix("sqlite:").partition("?")[0]
    path = path.removeprefix("//")
    if path in ("", ":memory:"):
        return "memory"
    return f"sqlite:{Path(config.working_directory or '.') / path}"
