"""The processes of the chaos run: the orchestrator (with the broker as its child) and the workers, each started again when it dies.

Where a victim runs is asked anew for each kill, because a process that was started again has another id.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
from pathlib import Path

from stepmesh_broker.nats import read_endpoint
from stepmesh_cli.demo.kills import Kill
from stepmesh_cli.demo.stage import COMMAND, Stage
from stepmesh_cli.errors import CommandError
from stepmesh_cli.processes import Supervisor, WorkerProcess

LOG = "processes.log"
"""In the data folder: what all processes said."""
_GRACE_S = 10.0
_POLL_S = 0.01
_START_S = 20.0
log = logging.getLogger("stepmesh.demo")


class Cast:
    """The processes on stage: the orchestrator (with the broker as its child) and the workers, each started again when it dies."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.trouble: list[str] = []
        """Processes that were given up."""
        self._log = (stage.data / LOG).open("a", buffering=1)
        self._orchestrator = Supervisor({}, self._say, self._fail)
        self._workers: Supervisor | None = None
        self.url = ""

    async def __aenter__(self) -> Cast:
        """Nothing runs before `begin`."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop all, workers first."""
        if self._workers is not None:
            await self._workers.stop(_GRACE_S)
        await self._orchestrator.stop(_GRACE_S)
        self._log.close()

    async def begin(self) -> None:
        """Start everything; returns when the broker takes connections. Raises `CommandError` when the orchestrator does not come up."""
        command = (*COMMAND, "up", "--data", str(self._stage.data))
        self._orchestrator.start((WorkerProcess("orchestrator", command),))
        self.url = url = await self._endpoint()
        self._workers = Supervisor({"STEPMESH_URL": url}, self._say, self._fail)
        self._workers.start(self._stage.worker_processes())

    async def _endpoint(self) -> str:
        deadline = asyncio.get_running_loop().time() + _START_S
        while not (url := read_endpoint(self._stage.data)):
            if self.trouble or asyncio.get_running_loop().time() > deadline:
                hint = f"its output is in {self._stage.data / LOG}"
                raise CommandError("the orchestrator did not come up: " + ("; ".join(self.trouble) or f"{_START_S:g} s"), hint=hint)
            await asyncio.sleep(_POLL_S)
        return url

    def strike(self, kill: Kill, busy: set[int]) -> list[int]:
        """Carry a kill out; the process ids that were hit. Empty, and nothing done, while one that is wanted does not run.

        `busy`: processes at work; a worker among them is preferred.
        """
        victims = self._victims(kill, busy)
        for pid in victims:
            _kill(pid)
        if victims and kill.target == "wipe":
            shutil.rmtree(self._stage.data / "nats" / "jetstream", ignore_errors=True)
        return victims

    def _victims(self, kill: Kill, busy: set[int]) -> list[int]:
        workers = [pid for _, pid in sorted(self._workers.pids.items())] if self._workers is not None else []
        orchestrator = list(self._orchestrator.pids.values())
        broker = [pid] if (pid := _broker_pid(self._stage.data)) else []
        if kill.target == "worker":
            likely = [pid for pid in workers if pid in busy]
            return [likely[int(kill.pick * len(likely))]] if likely else []
        if kill.target == "orchestrator":
            return orchestrator
        if kill.target == "broker":
            return broker
        if not (orchestrator and broker):
            return []
        return [*orchestrator, *broker, *(workers if kill.target == "all" else ())]

    def _say(self, line: str) -> None:
        print(line, file=self._log)

    def _fail(self, problem: BaseException) -> None:
        self.trouble.append(str(problem))
        print(problem, file=self._log)


def _broker_pid(data: Path) -> int:
    """Of the live nats-server; 0 while there is none."""
    try:
        pid = int((data / "nats" / "server.pid").read_text() or 0)
        os.kill(pid, 0)
    except (OSError, ValueError):
        return 0
    return pid


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        log.info("process %d had ended by itself", pid)
