"""`stepmesh completion`: shell completion, as cyclopts makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclopts import App

from stepmesh_cli import exits
from stepmesh_cli.reporting import say
from stepmesh_cli.tables import print_json

Shell = Literal["bash", "zsh", "fish"]

completion = App(name="completion", help="Shell completion.")


@completion.command
def install(*, shell: Shell | None = None, output: Path | None = None, no_startup: bool = False, json: bool = False) -> int:
    """Install completion for a shell.

    Example: stepmesh completion install --shell bash

    Parameters
    ----------
    shell
        Default: the one that is running.
    output
        File for the script instead of the shell's own place.
    no_startup
        Leave the shell's start-up file alone.
    json
        Print one JSON object.
    """
    from stepmesh_cli.main import build_app

    path = build_app().install_completion(shell=shell, output=output, add_to_startup=not no_startup and output is None)
    if json:
        print_json({"script": str(path)})
    else:
        say(f"completion is in {path}; start a new shell to use it")
    return exits.OK


@completion.command
def show(*, shell: Shell = "bash") -> int:
    """Print the completion script.

    Example: stepmesh completion show --shell bash > stepmesh.bash

    Example: source <(stepmesh completion show --shell bash)

    Parameters
    ----------
    shell
        For which shell.
    """
    from stepmesh_cli.main import build_app

    print(build_app().generate_completion(shell=shell))
    return exits.OK
