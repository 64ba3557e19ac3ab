"""A page of the documentation as something that runs: its files, and what its consoles show.

A fence right below a line that ends with a file's name in backquotes and a colon holds that file. In a `console` fence, lines that
begin with `$ ` are commands (a trailing backslash goes on in the next line), run in order in one folder; the lines below a command are
its stdout. `…` stands for anything on a line, a line of `…` for any lines. `stepmesh up` and `stepmesh server` stay in the background and
are stopped at the end of the page; what is shown below them is what they say on stderr.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
_FENCE = re.compile(r"(?:^[^\n]*`(?P<name>[^`\n]+)`[^`\n]*:\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_LIMIT_S = 60
_READY = {"stepmesh up": "stepmesh is up", "stepmesh server": "stepmesh serves"}


class Fence(NamedTuple):
    """`name`: of the file that it holds, or ""."""

    name: str
    language: str
    text: str


class Command(NamedTuple):
    """A shell command, and what the page shows below it."""

    line: str
    shown: str


@dataclass(frozen=True)
class Page:
    """The text of a page."""

    text: str

    @classmethod
    def of(cls, path: str) -> Page:
        """By its path in the repository."""
        return cls((ROOT / path).read_text())

    def fences(self) -> list[Fence]:
        """In order."""
        return [Fence(found["name"] or "", found["language"], found["text"]) for found in _FENCE.finditer(self.text)]

    def write(self, folder: Path) -> list[Path]:
        """The files of the page, in `folder`."""
        written: list[Path] = []
        for fence in self.fences():
            if fence.name:
                written.append(folder / fence.name)
                written[-1].parent.mkdir(parents=True, exist_ok=True)
                written[-1].write_text(fence.text)
        return written

    def commands(self) -> list[Command]:
        """Of all consoles, in order."""
        return [command for fence in self.fences() if fence.language == "console" for command in _commands(fence.text)]


def _commands(text: str) -> list[Command]:
    found: list[Command] = []
    for block in re.split(r"^\$ ", text, flags=re.M)[1:]:
        lines = block.splitlines()
        end = next(number for number, line in enumerate(lines) if not line.endswith("\\")) + 1
        found.append(Command("\n".join(lines[:end]), "\n".join(lines[end:])))
    return found


def matches(shown: str, said: str) -> bool:
    """Whether `said` is what the page shows."""
    lines = [
        r"(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.rstrip().split("…"))) + r"[ ]*\n" for line in shown.splitlines()
    ]
    return re.fullmatch("".join(lines), said if said.endswith("\n") or not said else said + "\n") is not None


class Terminal:
    """Where a page's commands run. `close` ends what is in the background."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("STEPMESH_", "OTEL_"))}
        self.environment = {**kept, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "COLUMNS": "140", "VIRTUAL_ENV": str(PROGRAMS.parent)}
        self.up: subprocess.Popen[str] | None = None

    def run(self, command: Command) -> str:
        """What the command said on stdout; for `stepmesh up` its greeting. Raises `AssertionError` when it hangs."""
        ready = next((said for start, said in _READY.items() if command.line.startswith(start)), None)
        if ready is not None:
            return self._start(command, ready)
        done = subprocess.run(
            ["bash", "-c", command.line],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if command.line.startswith("kill ") and self.up is not None:
            self._ended(-signal.SIGKILL if " -9 " in command.line else 0)
        return done.stdout if done.stdout or not command.shown else done.stderr

    def _start(self, command: Command, ready: str) -> str:
        self.up = subprocess.Popen(
            ["bash", "-c", f"exec {command.line}"],
            cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.up.stderr is not None
        after = command.shown.partition(ready)[2].count("\n")
        said: list[str] = []
        for line in self.up.stderr:
            said.append(line)
            if ready in "".join(said[: max(0, len(said) - after)]):
                break
        return "".join(said)

    def close(self) -> None:
        """Stop `stepmesh up`, which must end as asked."""
        if self.up is not None:
            self.up.send_signal(signal.SIGTERM)
            self._ended(0)

    def _ended(self, code: int) -> None:
        assert self.up is not None
        _, said = self.up.communicate(timeout=_LIMIT_S)
        ended, self.up = self.up.returncode, None
        assert ended == code, said


def rehearse(page: Page, folder: Path) -> int:
    """Write the files of a page and run its commands; each must say what the page shows. Returns how many there were."""
    page.write(folder)
    terminal = Terminal(folder)
    commands = page.commands()
    try:
        for command in commands:
            said = terminal.run(command)
            assert matches(command.shown, said), f"$ {command.line}\n--- shown\n{command.shown}\n--- said\n{said}"
    finally:
        terminal.close()
    return len(commands)
