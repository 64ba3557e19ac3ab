"""A real `stepmesh projector`, and what it has done so far."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from tests.unit.projector.counting import Model, Numbers, numbers_of
from tests.unit.projector.recorded import PARTITION, ReadModel, read_model, recorded

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_orchestrator.store.postgres import PostgresStore
from stepmesh_projector.postgres import PostgresKeeper
from stepmesh_projector.windows import Place, Window

WINDOW_S = 2
PATIENCE_S = 60.0
SESSION_S = 2.0


class Follower:
    """A process."""

    def __init__(self, where: Where, *more: str, settle_s: float = 0.2) -> None:
        times = ("--window", str(WINDOW_S), "--settle", str(settle_s), "--session", str(SESSION_S), "--log-level", "info")
        places = ("--broker", where.kafka, "--store", where.postgres, "--namespace", where.namespace)
        self._log = where.folder / f"projector-{time.monotonic_ns()}.log"
        with self._log.open("w") as log:
            command = [sys.executable, "-W", "error", "-m", "stepmesh_cli", "projector", *places, *times, *more]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()

    @property
    def said(self) -> str:
        return self._log.read_text()

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE_S)

    def ended(self) -> int:
        """The exit code of one that ends by itself."""
        return self._process.wait(PATIENCE_S)

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """While it lives."""
        deadline = time.monotonic() + PATIENCE_S
        while not await holds():
            assert self.lives, self.said
            assert time.monotonic() < deadline, self.said
            await asyncio.sleep(0.05)


class Where(NamedTuple):
    """Servers and a namespace of a test's own, with the recorded deployment's flows in it."""

    kafka: str
    postgres: str
    namespace: Namespace
    folder: Path
    store: PostgresStore
    keeper: PostgresKeeper

    @property
    def topic(self) -> str:
        return f"stepmesh.{self.namespace}.journal"

    async def settled(self, sequence: int) -> bool:
        """Whether there is a checkpoint after the frame."""
        found = await self.keeper.load(PARTITION)
        return found is not None and found.sequence >= sequence

    async def read_model(self) -> ReadModel:
        return await read_model(self.store)

    async def numbers(self) -> Numbers:
        found: dict[Place, Window] = {}
        for kind in ("pool", "flow", "namespace"):
            found.update(await self.keeper.windows(kind, 0))
        return numbers_of(found)

    async def is_as_recorded(self) -> None:
        """The read model is the one of the deployment itself, the windows are those of the obvious model."""
        frames, theirs = recorded()
        assert await self.read_model() == await read_model(theirs)
        assert await self.numbers() == (await Model.of(frames, theirs, WINDOW_S * 1000)).numbers()
        assert await self.store.projected(PARTITION) == len(frames)
