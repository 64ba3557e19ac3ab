"""How the test worker of each language is started. A launcher is a name and a command; the environment says the rest (README.md)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import toolchains
from tests.environments import program

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Launcher:
    """`command`: called once per session, so that it may build the worker first."""

    name: str
    command: Callable[[], Sequence[str]]


def python() -> Sequence[str]:
    """The SDK of this repository, in this environment."""
    return [sys.executable, str(HERE / "python_worker.py")]


def typescript() -> Sequence[str]:
    """sdk/typescript/worker; needs Node."""
    return [str(program("node")), str(toolchains.typescript() / "build/test/behaviour/worker.js")]


def go() -> Sequence[str]:
    """examples/go-worker; needs Go."""
    return [str(toolchains.go("./behaviour"))]


LAUNCHERS = [Launcher("python", python), Launcher("typescript", typescript), Launcher("go", go)]
