"""Whether a command line of a container is one of the real program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stepmesh_cli.main import COMMANDS, build_app

INFRA = Path(__file__).parents[2] / "infra"
KNOWN = {command.name for command in COMMANDS}


def parse(arguments: Sequence[str]) -> None:
    """Raises `CycloptsError` for what `stepmesh` would refuse."""
    build_app().parse_args(list(arguments), exit_on_error=False, print_error=False)
