"""`stepmesh projector`: the stream application over a journal in Kafka, which feeds the read model in PostgreSQL. Any number may run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stepmesh.errors import PackageMissing
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.subjects import checked_name
from stepmesh_broker.telemetry import Configured, read
from stepmesh_cli import exits
from stepmesh_cli.addresses import POSTGRES, scheme_of, shown
from stepmesh_cli.connection import run_to_end
from stepmesh_cli.errors import CommandError
from stepmesh_cli.flow_files import read_config
from stepmesh_cli.logs import NO_LOGS, LogFlags
from stepmesh_cli.reporting import say
from stepmesh_cli.standing import StopSignals
from stepmesh_orchestrator.core.flow.routing import default_router

if TYPE_CHECKING:
    from stepmesh_projector.service import ProjectorSettings

_PACKAGES = {"faust", "aiokafka", "psycopg", "ddsketch"}


def projector(
    *,
    broker: Annotated[str, Parameter(env_var="STEPMESH_URL")],
    store: Annotated[str, Parameter(env_var="STEPMESH_STORE")],
    namespace: Annotated[str, Parameter(env_var="STEPMESH_NAMESPACE")] = "default",
    config: Path | None = None,
    rebuild: bool = False,
    window: float = 10.0,
    keep: float = 24.0,
    settle: float = 2.0,
    session: float = 15.0,
    host: str = "127.0.0.1",
    port: int | None = None,
    logs: LogFlags = NO_LOGS,
) -> int:
    """Follow the journal in Kafka; write the read model and windowed numbers, until SIGTERM or SIGINT.

    Parameters
    ----------
    broker
        kafka://…, where the journal lies.
    store
        postgres://… of the deployment's store.
    namespace
        Namespace.
    config
        Configuration file, for its routes: they say which pool a task went to.
    rebuild
        Forget checkpoints and windows first, and write again what the journal still holds.
    window
        Seconds of a window.
    keep
        Hours that windows are kept.
    settle
        Seconds between checkpoints.
    session
        Seconds until another projector gets the partitions of one that is gone.
    host
        Address of --port.
    port
        Serve /health over HTTP; default: not at all.
    """
    logs.apply()
    _check(broker, store, {"window": window, "keep": keep, "settle": settle, "session": session})
    found, _ = read_config(config, None) if config is not None else (None, None)
    try:
        from stepmesh_projector.service import ProjectorSettings
    except ModuleNotFoundError as problem:
        raise missing(problem) from problem
    settings = ProjectorSettings(
        broker=broker, store=store, namespace=Namespace(checked_name("namespace", namespace)), rebuild=rebuild,
        router=default_router() if found is None else found.router(), size_ms=round(window * 1000), keep_ms=round(keep * 3_600_000),
        settle_s=settle, session_s=session, host=host, port=port,
        telemetry=read(os.environ, Configured() if found is None else Configured(**found.telemetry.model_dump())),
    )  # fmt: skip
    return run_to_end(_serve(settings))


def missing(problem: ModuleNotFoundError) -> Exception:
    """What to raise for an import that failed: the install lacks a package, or there is a defect."""
    name = (problem.name or "").partition(".")[0]
    if name not in _PACKAGES:
        return problem
    return PackageMissing(f"a projector wants the package {name}, which is not installed", hint="pip install 'stepmesh[faust]'")


async def _serve(settings: ProjectorSettings) -> int:
    from stepmesh_projector.service import open_application

    async with StopSignals(hurry=lambda: None) as signals, open_application(settings) as application:
        print(json.dumps({"group": application.group, "port": settings.port}), flush=True)
        say(f"stepmesh projector follows {application.topic.name} ({application.topic.partitions} partitions)")
        await application.run(signals.first())
        say("stopped: the next start goes on from here")
    return exits.OK


def _check(broker: str, store: str, numbers: dict[str, float]) -> None:
    """Raises `CommandError`."""
    if scheme_of(broker) != "kafka":
        raise CommandError(f"a projector follows a journal in Kafka, not {shown(broker)}", hint="--broker kafka://host:9092")
    if scheme_of(store) not in POSTGRES:
        raise CommandError(f"a projector writes to PostgreSQL, not to {shown(store)}", hint="--store postgres://host/database")
    for name, number in numbers.items():
        if number <= 0:
            raise CommandError(f"--{name} {number:g} is not above 0", hint="give seconds; --keep takes hours")
