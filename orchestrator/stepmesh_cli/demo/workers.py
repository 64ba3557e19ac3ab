"""The workers of pool `cpu`: components over source_code.py, and the report of the reduce flow.

Run as `python -m stepmesh_cli worker stepmesh_cli.demo.workers:cpu`. A component is pure but for reading the file that it is given, so
running it again is harmless.
"""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path
from typing import Any, TypedDict

from stepmesh import ComponentError, Context, InvalidInput, Worker
from stepmesh_cli.demo import source_code
from stepmesh_cli.demo.ledger import VARIABLE, Ledger
from stepmesh_cli.demo.source_code import Documentation, Shape, Size

PACE = "STEPMESH_DEMO_PACE_MS"
"""Environment: milliseconds that every component takes longer, so that a chaos monkey finds it at work."""
HICCUP_EVERY = 24
"""One file in so many has its first `measure` fail on purpose, so that the report has retries to show."""


class File(TypedDict):
    """Input of the file components."""

    path: str


def demo_worker(pool: str, concurrency: int) -> Worker:
    """A worker of the demo, with a ledger when the environment names a folder for it."""
    folder = os.environ.get(VARIABLE)
    return Worker(pool, concurrency=concurrency, instrument=Ledger(Path(folder), pool) if folder else None, drain_grace_s=5)


def read(path: str) -> bytes:
    """The bytes of a source file; takes its time when the demo asks for it. Raises `InvalidInput`."""
    pace_ms = float(os.environ.get(PACE) or 0)
    if pace_ms:
        time.sleep(pace_ms / 1000)
    try:
        return Path(path).read_bytes()
    except OSError as problem:
        raise InvalidInput(f"{path}: {problem.strerror}") from problem


cpu = demo_worker("cpu", 4)


@cpu.component
def parse(path: str, functions: int = 24) -> dict[str, Any]:
    """The outline of a file; its longest functions, each with the path, are the items of a map. Fails for a file that does not parse."""
    try:
        found = source_code.outline(read(path), functions)
        return {**found, "functions": [{"path": path, **span} for span in found["functions"]]}
    except (SyntaxError, ValueError) as problem:
        raise ComponentError(_what(problem)) from problem


@cpu.component
def measure(file: File, context: Context) -> Size:
    """Lines by kind. Fails the first time for some files, to show a retry."""
    text = read(file["path"])
    if context.attempt == 1 and zlib.crc32(Path(file["path"]).name.encode()) % HICCUP_EVERY == 0:
        raise ComponentError("a hiccup, on purpose: the next attempt works")
    return source_code.size(text)


@cpu.component
def docstrings(file: File) -> Documentation:
    """How well a file documents itself."""
    return source_code.documentation(read(file["path"]))


@cpu.component
def function(path: str, name: str, first: int, last: int) -> Shape:
    """The shape of one function."""
    return source_code.shape(read(path), {"name": name, "first": first, "last": last})


@cpu.component
def report(survey: dict[str, Any], run: dict[str, Any], layout: dict[str, Any], path: str) -> dict[str, Any]:
    """Write the HTML report to `path`."""
    from stepmesh_cli.demo.report import write_report  # late: matplotlib is only for the worker that draws

    return write_report(survey, run, layout, Path(path))


def _what(problem: SyntaxError | ValueError) -> str:
    if isinstance(problem, SyntaxError) and problem.lineno:
        return f"line {problem.lineno}: {problem.msg}"
    return str(problem.args[0] if problem.args else problem)
