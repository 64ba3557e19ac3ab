"""A flow file as the engine would take it, and the configuration that goes with it. Findings are shown with their lines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stepmesh_cli.errors import BadInput
from stepmesh_cli.inputs import read_text
from stepmesh_cli.main import STDIN
from stepmesh_cli.reporting import show_findings
from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.compile import compile_flow
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.flow.diagnostics import FlowInvalid, Level
from stepmesh_orchestrator.core.flow.document import Document, load

if TYPE_CHECKING:
    from stepmesh_orchestrator.config import Config

NO_LABELS = Code.LABEL.code
"""Warns of a missing name or description: for `stepmesh validate`, not for every run."""


def read_flow(path: str) -> tuple[Document, CompiledFlow]:
    """Read and check a flow file (`-` is stdin). Shows its findings; raises `FlowInvalid`, `BadInput`."""
    if path != STDIN and not Path(path).is_file():
        raise BadInput(
            f"there is no flow file {path}", hint="check the path, or give the 64 hex digits of a stored flow to `stepmesh submit`"
        )
    name = "<stdin>" if path == STDIN else path
    document = load(read_text(path), name=name)
    flow, diagnostics = compile_flow(document)
    show_findings([finding for finding in diagnostics.items if finding.code != NO_LABELS], name)
    if flow is None or diagnostics.failed:
        count = sum(finding.level < Level.WARNING for finding in diagnostics.items)
        raise FlowInvalid(f"{name} is not a flow that can run: {count} errors", diagnostics, hint=f"stepmesh validate {path}")
    return document, flow


def read_config(explicit: Path | None, flow: str | None) -> tuple[Config | None, Path | None]:
    """The configuration of `--config`, of the flow's folder or of the working folder, and its file. Raises `ConfigInvalid`."""
    folders = [Path.cwd()] if flow in (None, STDIN) else [Path(flow).resolve().parent, Path.cwd()]
    if explicit is None and not any(_looks_configured(folder) for folder in folders):
        return None, None
    from stepmesh_orchestrator.config import find_config, load_config  # late: pydantic is half of a short run's imports

    path = find_config(explicit, list(dict.fromkeys(folders)))
    if path is None:
        return None, None
    config, warnings = load_config(path, os.environ)
    show_findings(warnings, str(path))
    return config, path


def _looks_configured(folder: Path) -> bool:
    """Whether a look with `find_config` is worth its imports."""
    return any(name.startswith(("stepmesh.y", "stepflow")) for name in os.listdir(folder))
