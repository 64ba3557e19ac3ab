"""Worker processes beside the orchestrator: started, listened to, started again when they end, drained at the end.

Invariant: a process that ends is started again after a growing pause, unless its exit code says that this cannot help; none
outlives this process (on Linux the kernel tells it to drain). It must not know what workers do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from stepmesh_cli.errors import WorkerProcessFailed

log = logging.getLogger("stepmesh.workers")

BACKOFF_S = (0.1, 10.0)
"""Pause before a process is started again: first, and largest (seconds); it doubles while starts fail quickly."""
HEALTHY_AFTER_S = 10.0
"""A process that ran this long begins again with the first pause, in seconds."""
LAST_LINES = 20
"""Lines of output that are kept for the report of a crash."""
SHOWN_LINES = 3
"""Lines that `stepmesh pools` shows of them."""
MAX_LINE = 1024 * 1024
USELESS_AGAIN = frozenset({2, 126, 127})
"""Exit codes after which another start would end the same way: wrong call or bad worker module, not executable, not found."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A command line and what is added to the environment. `folder`: where it starts, default is here. `through`: how it reaches
    the deployment. `needed`: when it cannot be started, the deployment fails; else it is tried again, less and less often."""

    label: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    folder: str | None = None
    through: Literal["broker", "gateway"] = "broker"
    needed: bool = True

    def reaching(self, addresses: Mapping[str, str]) -> WorkerProcess:
        """The same with addresses in its environment; what was there before wins."""
        return replace(self, environment={**addresses, **self.environment})


class Supervisor:
    """`say` gets each line of output with the process's label; `failed` hears of a process that is given up, `ended` of one that ended
    by itself and is started again."""

    def __init__(
        self,
        environment: Mapping[str, str],
        say: Callable[[str], None],
        failed: Callable[[BaseException], None],
        ended: Callable[[WorkerProcess, str], None] | None = None,
    ) -> None:
        self._ended = ended
        self._environment = environment
        self._say = say
        self._failed = failed
        self._keepers: list[asyncio.Task[None]] = []
        self._alive: dict[str, Process] = {}
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        """Set, and replaced, when what runs is of yesterday."""

    @property
    def pids(self) -> dict[str, int]:
        """Label → process id, of those that run now."""
        return {label: process.pid for label, process in self._alive.items()}

    def start(self, processes: Sequence[WorkerProcess]) -> None:
        """Begin to keep them running; does not wait for them."""
        for process in processes:
            self._keepers.append(asyncio.create_task(self._keep(process), name=f"stepmesh process {process.label}"))

    def renew(self) -> None:
        """Have all of them drain and start again: their code has changed. Who waits to be started again waits no longer."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._signal(signal.SIGTERM)

    async def stop(self, grace_s: float) -> None:
        """Tell all to drain, wait up to `grace_s` seconds, kill what is left."""
        self._stopping.set()
        if not self._keepers:
            return
        try:
            self._signal(signal.SIGTERM)
            _, waiting = await asyncio.wait(self._keepers, timeout=grace_s)
            if waiting:
                log.warning("%d worker processes did not drain within %g s and are killed", len(waiting), grace_s)
        finally:
            self._signal(signal.SIGKILL)
            await asyncio.wait(self._keepers)
            self._keepers.clear()

    def _signal(self, sign: signal.Signals) -> None:
        for process in self._alive.values():
            _send(process, sign)

    async def _keep(self, wanted: WorkerProcess) -> None:
        loop = asyncio.get_running_loop()
        first, most = BACKOFF_S
        pause = first
        while not self._stopping.is_set():
            began, last, changed = loop.time(), deque[str](maxlen=LAST_LINES), self._changed
            code = await self._once(wanted, last, changed)
            if self._stopping.is_set():
                return
            if changed.is_set():
                pause = first
                continue
            if code in USELESS_AGAIN and wanted.needed:
                self._failed(given_up(wanted, code, last))
                return
            pause = first if loop.time() - began > HEALTHY_AFTER_S else most if code in USELESS_AGAIN else pause
            what = f"worker {wanted.label} ended with code {code}"
            log.warning("%s and starts again in %.1f s; last lines: %s", what, pause, " | ".join(last))
            if self._ended is not None:
                self._ended(wanted, f"{what}; last lines: {' | '.join([*last][-SHOWN_LINES:])}")
            await self._pause(pause, changed)
            pause = min(pause * 2, most)

    async def _pause(self, seconds: float, changed: asyncio.Event) -> None:
        ends = [asyncio.ensure_future(event.wait()) for event in (self._stopping, changed)]
        await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()

    async def _once(self, wanted: WorkerProcess, last: deque[str], changed: asyncio.Event) -> int:
        from stepmesh_broker.nats.embedded import dies_with_this_process  # late: only who has processes pays for nats-py

        try:
            process = await asyncio.create_subprocess_exec(
                *wanted.command,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment, **wanted.environment},
                cwd=wanted.folder,
                limit=MAX_LINE,
                preexec_fn=dies_with_this_process(),
                start_new_session=True,  # Ctrl-C in the terminal is for the parent, which drains its workers in order
            )
        except OSError as problem:
            last.append(f"{wanted.command[0]}: {problem.strerror or problem}")
            return 127
        self._alive[wanted.label] = process
        try:
            if self._stopping.is_set() or changed.is_set():
                _send(process, signal.SIGTERM)
            await self._listen(wanted.label, process, last)
            return await process.wait()
        finally:
            del self._alive[wanted.label]

    async def _listen(self, label: str, process: Process, last: deque[str]) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than MAX_LINE: the reader dropped it
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            last.append(text)
            self._say(f"[{label}] {text}")


def given_up(wanted: WorkerProcess, code: int, last: Sequence[str]) -> WorkerProcessFailed:
    """The error for a process that is not started again."""
    shown = "\n".join(f"  {line}" for line in last)
    return WorkerProcessFailed(
        f"worker {wanted.label} ended with code {code} and is not started again" + (f"; its last lines:\n{shown}" if shown else ""),
        hint=f"try it alone: {' '.join(wanted.command)}",
    )


def _send(process: Process, sign: signal.Signals) -> None:
    try:
        if sign is signal.SIGKILL:
            os.killpg(process.pid, sign)  # with all that it started, which might hold its output open
        else:
            process.send_signal(sign)
    except ProcessLookupError:
        pass  # it ended by itself just now
