"""`stepmesh worker`: the worker that a Python module offers, as this process."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from cyclopts import Parameter

from stepmesh import Worker
from stepmesh_broker.protocol.subjects import checked_name
from stepmesh_cli import exits
from stepmesh_cli.connection import find_url
from stepmesh_cli.errors import BadWorkerModule, CommandError
from stepmesh_cli.reporting import say
from stepmesh_cli.tables import print_json


def worker(
    module: str,
    /,
    *,
    pool: Annotated[str | None, Parameter(env_var="STEPMESH_POOL")] = None,
    url: str | None = None,
    data: Path | None = None,
    namespace: Annotated[str | None, Parameter(env_var="STEPMESH_NAMESPACE")] = None,
    concurrency: int | None = None,
    grace: float | None = None,
    json: bool = False,
) -> int:
    """Run the worker of a Python module until SIGTERM or SIGINT, then drain.

    Parameters
    ----------
    module
        MODULE[:ATTR] or FILE.py[:ATTR]; without ATTR the only worker in it.
    pool
        Serve this pool instead of the worker's own.
    url
        nats://… or kafka://… of a broker, or grpc://… of a gateway; default: STEPMESH_URL, or the nearest `stepmesh up`.
    data
        Data folder of a running `stepmesh up`.
    namespace
        Namespace instead of the worker's own.
    concurrency
        Tasks at once.
    grace
        Seconds to drain.
    json
        Say what is served as a JSON line on stdout.
    """
    found = load_worker(module)
    adapt(found, pool, namespace, concurrency, grace)
    where = find_url(url, data)
    paths = [component.path for component in found]
    if json:
        print_json({"pool": found.pool, "namespace": found.namespace, "components": paths, "pid": os.getpid()})
    say(f"worker of pool {found.pool}: {', '.join(paths)}")
    found.serve(where)
    return exits.OK


def adapt(found: Worker, pool: str | None, namespace: str | None, concurrency: int | None, grace_s: float | None) -> None:
    """What the command line says wins over what the module says. Raises `StepmeshError`."""
    if concurrency is not None and concurrency < 1:
        raise CommandError(f"--concurrency {concurrency} is below 1", hint="a worker runs at least one task at a time")
    if grace_s is not None and grace_s < 0:
        raise CommandError(f"--grace {grace_s:g} is below 0", hint="give seconds")
    found.pool = found.pool if pool is None else checked_name("pool", pool)
    found.namespace = found.namespace if namespace is None else checked_name("namespace", namespace)
    found.concurrency = found.concurrency if concurrency is None else concurrency
    found.drain_grace_s = found.drain_grace_s if grace_s is None else grace_s


def load_worker(name: str) -> Worker:
    """Import `MODULE[:ATTR]` or `FILE.py[:ATTR]`, with the working folder on the path. Raises `BadWorkerModule`."""
    where, _, attribute = name.partition(":")
    module = load_module(where)
    if attribute:
        found: Any = module
        for part in attribute.split("."):
            found = getattr(found, part, None)
        if not isinstance(found, Worker):
            raise BadWorkerModule(f"{name} is not a stepmesh.Worker", hint=f"workers in {where}: {', '.join(_workers(module)) or 'none'}")
        return found
    workers = _workers(module)
    if len({id(worker) for worker in workers.values()}) != 1:
        hint = f"name one: {where}:{next(iter(workers))}" if workers else 'write worker = Worker(pool="…")'
        raise BadWorkerModule(f"{where} has {len(workers)} workers, wanted one", hint=hint)
    return next(iter(workers.values()))


def _workers(module: ModuleType) -> dict[str, Worker]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Worker)}


def load_module(where: str) -> ModuleType:
    """Import `MODULE` or `FILE.py`, with the working folder on the path. Raises `BadWorkerModule`."""
    sys.path.insert(0, os.getcwd())
    try:
        return _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except BadWorkerModule:
        raise
    except Exception as problem:
        places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(problem.__traceback__)]
        theirs = [place for place in places if not place.startswith(("<frozen", __file__))]
        hint = f"at {theirs[-1]}" if theirs else "check the name; the working folder is on the path"
        raise BadWorkerModule(f"cannot import {where}: {type(problem).__name__}: {problem}", hint=hint) from problem


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadWorkerModule(f"there is no file {path}", hint="give FILE.py[:ATTR], or an importable MODULE[:ATTR]")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise BadWorkerModule(f"{path} is not a Python file", hint="give FILE.py[:ATTR]")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # pickling and dataclasses look their module up
    spec.loader.exec_module(module)
    return module
