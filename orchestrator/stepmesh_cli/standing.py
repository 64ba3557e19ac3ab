"""What every command that serves until it is told to stop shares: signals, and a deployment between them.

Invariant: the first SIGTERM or SIGINT ends it in order with exit code 0; the second one waits for nobody.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import TracebackType

from stepmesh_cli import exits
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.reporting import say


class StopSignals:
    """`async with StopSignals(hurry) as signals:`. `hurry` hears of the second signal, then the task that entered is cancelled."""

    def __init__(self, hurry: Callable[[], None]) -> None:
        self.impatient = False
        self._hurry = hurry
        self._first = asyncio.Event()
        self._task: asyncio.Task[object] | None = None

    async def __aenter__(self) -> StopSignals:
        """Listen."""
        self._task = asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._heard)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        """Listen no more."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)

    async def first(self) -> None:
        """Returns at the first signal."""
        await self._first.wait()

    def _heard(self) -> None:
        if not self._first.is_set():
            self._first.set()
            return
        self.impatient = True
        self._hurry()
        if self._task is not None:
            self._task.cancel()


async def serve(settings: DeploymentSettings, tell: Callable[[Deployment], None]) -> int:
    """A deployment until a signal; `tell` hears when it is ready. Returns the exit code; raises what a part of it failed with."""
    deployment = Deployment(settings)
    signals = StopSignals(deployment.hurry)
    try:
        async with signals, deployment:
            tell(deployment)
            await deployment.guard(signals.first())
            say("stopping: workers drain, the journal keeps what runs")
    except asyncio.CancelledError:
        if not signals.impatient:
            raise
        return exits.TERMINATED
    return exits.OK
