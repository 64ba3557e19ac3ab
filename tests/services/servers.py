"""What the servers of tests share: begun with `with`, and, where there are several, killed and started again one by one."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.services.process import LocalProcess


class Service(ABC):
    """`with` starts it, and ends it however the block ends."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    @abstractmethod
    def start(self) -> None:
        """Returns when it answers; data of the last time is kept."""

    @abstractmethod
    def stop(self) -> None:
        """In order. Idempotent."""

    def end(self) -> None:
        """For good. Idempotent."""
        self.stop()


class Servers(Service):
    """Several, each in a folder of its own below `folder`, by its number. A subclass makes the processes and prepares the folders."""

    def __init__(self, folder: Path, processes: Sequence[LocalProcess]) -> None:
        self.folder = folder
        self._nodes = processes

    @property
    def pids(self) -> list[int]:
        """Of the running servers."""
        return [node.pid for node in self._nodes]

    def start(self) -> None:
        """All of them."""
        with ThreadPoolExecutor() as pool:
            [*pool.map(self._prepare, range(len(self._nodes)))]
        for node in self._nodes:
            node.spawn()
        for node in self._nodes:
            node.wait_ready()

    def stop(self) -> None:
        """All of them."""
        for node in self._nodes:
            node.stop()

    def end(self) -> None:
        """At once: nobody reads their data any more, and a cluster of Kafka takes 20 seconds to stop in order."""
        for number in range(len(self._nodes)):
            self.kill(number)

    def kill(self, number: int) -> None:
        """SIGKILL to one."""
        self._nodes[number].kill()

    def restart(self, number: int) -> None:
        """Start one again, on its data."""
        self._prepare(number)
        self._nodes[number].start()

    def wipe(self, number: int) -> None:
        """Lose the data of one that does not run."""
        if (data := self.folder / str(number) / "data").exists():
            shutil.rmtree(data)

    @abstractmethod
    def _prepare(self, number: int) -> None:
        """Make what the server finds in its folder, if it is not there."""
