"""`stepmesh up`: a whole deployment in this process, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

from stepmesh.endpoint import FILE
from stepmesh_cli import exits
from stepmesh_cli.connection import run_to_end
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.flow_files import read_config
from stepmesh_cli.plugins import parts_of
from stepmesh_cli.reporting import say, warn
from stepmesh_cli.settings import configured, worker_processes
from stepmesh_cli.tables import print_json

HERE = FILE.parent.parent
"""The data folder that clients find by themselves."""


def up(
    *,
    data: Path = HERE,
    config: Path | None = None,
    worker: tuple[str, ...] = (),
    workers: int = 1,
    broker: str | None = None,
    journal: str | None = None,
    port: int | None = None,
    partitions: int | None = None,
    namespace: str = "default",
    grace: float = 20.0,
    json: bool = False,
) -> int:
    """Serve flows from this machine: orchestrator, broker, journal and workers in one process.

    Parameters
    ----------
    data
        Folder of journal, store and broker; what is in it goes on where it stopped.
    config
        Configuration file; default: the one in the working folder.
    worker
        MODULE[:ATTR] or FILE.py[:ATTR] whose worker runs in processes of its own; repeatable.
    workers
        Processes of each --worker.
    broker
        embedded or nats://host:port; default: embedded.
    journal
        sqlite, sqlite:PATH or memory; default: sqlite.
    port
        Port of the embedded broker; default: the one of the last time, or a free one.
    partitions
        Of a new data folder; default: 1.
    namespace
        Namespace.
    grace
        Seconds that workers get to drain.
    json
        Say when it is ready as a JSON line on stdout.
    """
    found, _ = read_config(config, None)
    for line in parts_of(found).warnings:
        warn(line)
    said = configured(found)
    settings = DeploymentSettings(
        broker=broker or said.broker or "embedded",
        journal=journal or said.journal or "sqlite",
        data_dir=data,
        namespace=namespace,
        partitions=partitions or said.partitions,
        config=found,
        port=port,
        processes=worker_processes(worker, workers),
        grace_s=grace,
    )
    logging.getLogger("stepmesh").setLevel(min(logging.INFO, logging.getLogger().level))
    return run_to_end(_serve(settings, data, json))


async def _serve(settings: DeploymentSettings, data: Path, as_json: bool) -> int:
    stop = asyncio.Event()
    current = asyncio.current_task()

    def signalled() -> None:
        if stop.is_set() and current is not None:
            current.cancel()  # the second signal does not wait for workers
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    async with Deployment(settings) as deployment:
        _tell(deployment, data, as_json)
        await deployment.guard(_until(stop))
        say("stopping: workers drain, the journal keeps what runs")
    return exits.OK


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


def _tell(deployment: Deployment, data: Path, as_json: bool) -> None:
    settings = deployment.settings
    if as_json:
        print_json({"ready": True, "pid": os.getpid(), "data": str(data.absolute()), "namespace": settings.namespace})
    flags = "" if data == HERE else f" --data {data}"
    say(f"stepmesh is up: broker {_without_password(settings.broker)}, journal {settings.journal}, data {data.absolute()}")
    if settings.broker == "embedded":
        say(f"  submit:  stepmesh submit FLOW --input-json '{{…}}'{flags}")
        say(f"  work:    stepmesh worker MODULE{flags}")
        say(f"  or set   STEPMESH_URL to the url in {data / 'nats' / 'endpoint.json'}")
    else:
        say("  set STEPMESH_URL to the broker's address for `stepmesh submit` and `stepmesh worker`")


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
