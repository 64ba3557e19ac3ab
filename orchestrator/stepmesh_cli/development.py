"""`stepmesh up --dev`: worker processes for who is writing their code.

Workflows are replayed at each activation, so that what a replay would do otherwise shows at once, and not when a worker is lost. Workers
start again when Python files change, and one that cannot be imported waits for the next change. It must not know what workers do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from watchfiles import PythonFilter, awatch

from stepmesh_cli.processes import Supervisor, WorkerProcess

NAMED = 3
"""Files that are named when many change at once."""


def for_authors(processes: Iterable[WorkerProcess]) -> tuple[WorkerProcess, ...]:
    """The same processes without a cache of live functions; mistakes in their code end nothing."""
    return tuple(replace(one, needed=False, environment={"STEPMESH_LIVE_FUNCTIONS": "0", **one.environment}) for one in processes)


async def renew_on_change(supervisor: Supervisor, folder: Path, say: Callable[[str], None]) -> None:
    """Have the processes start again each time that a Python file below the folder changes, for ever. Virtual environments, caches and
    hidden folders of tools are passed over."""
    async for changes in awatch(folder, watch_filter=PythonFilter()):
        say(f"{_named({Path(path) for _, path in changes}, folder)} changed: workers start again")
        supervisor.renew()


def _named(files: set[Path], folder: Path) -> str:
    names = [os.path.relpath(file, folder) for file in sorted(files)[:NAMED]]
    return ", ".join(names) + (" and others" if len(files) > NAMED else "")
