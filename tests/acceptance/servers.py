"""A running `stepmesh server` or `stepmesh gateway` for tests: started, its port read from stdout, ended with whatever it started."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO

LIMIT_S = 60.0


class Server:
    """What it says on stderr is read as it comes, so that it never waits for its reader."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.port = 0
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        assert process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._reader.start()

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    def until(self, text: str) -> str:
        """The first line with `text` that was not yet looked at."""
        while (line := self._lines.get(timeout=LIMIT_S)) is not None:
            if text in line:
                return line
        raise AssertionError(f"it ended without saying {text!r}: {''.join(self.said)}")

    def end(self) -> tuple[int, str]:
        """Exit code and all that it said, once it ended."""
        code = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return code, "".join(self.said)

    def _read(self, stderr: IO[str]) -> None:
        for line in stderr:
            self.said.append(line)
            self._lines.put(line)
        self._lines.put(None)


def command(*arguments: str) -> list[str]:
    """How the program is called."""
    return [sys.executable, "-m", "stepmesh_cli", *arguments]


@contextmanager
def started(argv: list[str], *, stdin: str | None = None, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Any program that announces `{"port": N}` as the first line of stdout. Killed at the end if it still runs."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    server = Server(process)
    try:
        if stdin is not None and process.stdin is not None:
            process.stdin.write(stdin)
            process.stdin.close()
        assert process.stdout is not None
        announced = process.stdout.readline()
        assert announced, f"it ended without a port: {server.end()}"
        server.port = json.loads(announced)["port"]
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(LIMIT_S)
        server.end()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@contextmanager
def serving(*arguments: str, stdin: str | None = None, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """`stepmesh server` on a free port."""
    with started(command("server", "-p", "0", *arguments), stdin=stdin, environment=environment) as server:
        yield server
