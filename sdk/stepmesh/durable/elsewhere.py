"""A history replayed in other processes, whose sets have other orders: what depends on the order of a set differs there.

`python -m stepmesh.durable.elsewhere FILE NAME` reads a history from stdin and writes what differs. Invariant: nothing of this process but
the history and the source takes part.
"""

from __future__ import annotations

import inspect
import os
import runpy
import subprocess
import sys
from functools import reduce
from typing import Any

from stepmesh.durable.errors import BadWorkflow
from stepmesh.durable.fixtures import History, dumps, loads
from stepmesh.durable.rehearsal import replay
from stepmesh.durable.workflow import Workflow

SEEDS = ("1", "2")
"""Of the hashes of text in the other processes."""
_LIMIT_S = 120


def replay_elsewhere(workflow: Workflow[..., Any], history: History) -> str:
    """What differs, as text; "" when nothing does. Raises `BadWorkflow` for one that another process cannot find."""
    file, name = inspect.getsourcefile(workflow.function), workflow.function.__qualname__
    if file is None or "<locals>" in name:
        raise BadWorkflow(f"another process cannot find the workflow `{name}`", hint="declare it in a module, outside of any function")
    return next((said for seed in SEEDS if (said := _said(file, name, history, seed))), "")


def _said(file: str, name: str, history: History, seed: str) -> str:
    command = [sys.executable, "-m", __name__, file, name]
    done = subprocess.run(
        command,
        input=dumps(history),
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_S,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    if done.returncode:
        raise BadWorkflow(f"another process cannot replay `{name}` of {file}: {done.stderr.strip()[-2000:]}", hint="see what it says")
    return done.stdout


def main(file: str, name: str) -> None:
    """In the other process."""
    sys.path.insert(0, os.getcwd())
    found = reduce(getattr, name.split(".")[1:], runpy.run_path(file, run_name="stepmesh_elsewhere")[name.split(".")[0]])
    assert isinstance(found, Workflow), f"{name} is {type(found).__qualname__}, no workflow"
    divergence = replay(found, loads(sys.stdin.read()))
    sys.stdout.write("" if divergence is None else str(divergence))


if __name__ == "__main__":
    main(*sys.argv[1:])
