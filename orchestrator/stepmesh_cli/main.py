"""The `stepmesh` program: which commands there are, and how they end.

A command is a function that returns its exit code (None is 0) and raises `StepmeshError` for a person to read; its module is
imported only when it is called, because most of a short command's time is imports. To add one, add a line to `COMMANDS`.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from cyclopts import App, CycloptsError

from stepmesh_cli import exits
from stepmesh_cli.reporting import report, say

COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("run", "stepmesh_cli.run:run", "Run"),
    ("up", "stepmesh_cli.up:up", "Run"),
    ("worker", "stepmesh_cli.worker:worker", "Run"),
    ("submit", "stepmesh_cli.submit:submit", "Operate"),
    ("status", "stepmesh_cli.runs:status", "Operate"),
    ("list", "stepmesh_cli.runs:list_runs", "Operate"),
    ("events", "stepmesh_cli.events:events", "Operate"),
    ("cancel", "stepmesh_cli.runs:cancel", "Operate"),
    ("explain", "stepmesh_cli.runs:explain", "Operate"),
    ("components", "stepmesh_cli.offers:components", "Operate"),
    ("pools", "stepmesh_cli.offers:pools", "Operate"),
    ("doctor", "stepmesh_cli.doctor:doctor", "Operate"),
    ("test", "stepmesh_cli.test:run_tests", "Author"),
    ("validate", "stepmesh_cli.validate:validate", "Author"),
    ("visualize", "stepmesh_cli.visualize:visualize", "Author"),
    ("journal", "stepmesh_cli.journal:journal", "Operate"),
    ("completion", "stepmesh_cli.completion:completion", "Operate"),
)
"""Name, import path, group in the help."""
GC_THRESHOLDS = (50_000, 25, 25)
"""Allocations before a collection, per generation: what imports make is no garbage."""
DEBUG = "STEPMESH_DEBUG"


def build_app() -> App:
    """The program with all its commands, none of them imported."""
    app = App(
        name="stepmesh",
        help="Declarative flows, executed step by step by worker pools.",
        help_format="plaintext",
        help_epilogue="Every command has --help with an example. --debug shows tracebacks and logs.",
        version=_version,
        result_action="return_value",
    )
    for name, path, group in COMMANDS:
        app.command(path, name=name, group=group)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run one command, and say what went wrong if something did. Returns the exit code; never raises."""
    gc.set_threshold(*GC_THRESHOLDS)
    given, debug = _debug(list(sys.argv[1:] if arguments is None else arguments))
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        code = build_app()(given, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as problem:
        say(f"SM-0100 {str(problem).strip()}")
        say(f"  → stepmesh {' '.join(given[:1])} --help")
        return exits.USAGE
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else exits.OK
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
        return exits.BROKEN_PIPE
    except Exception as problem:
        return report(problem, debug=debug)
    return code if isinstance(code, int) else exits.OK


def _debug(arguments: list[str]) -> tuple[list[str], bool]:
    """`--debug` may stand anywhere before `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [one for one in arguments[:end] if one != "--debug"]
    return kept + arguments[end:], len(kept) < end or bool(os.environ.get(DEBUG))


def _version() -> str:
    try:
        return version("stepmesh")
    except PackageNotFoundError:
        return "source"
