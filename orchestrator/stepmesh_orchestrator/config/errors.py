"""What can be wrong with a configuration: SM-0200 its contents, SM-0201 two files in one folder, SM-0202 a variable of the
environment that is not set, SM-0203 a file that cannot be read."""

from __future__ import annotations

from stepmesh_broker.errors import StepmeshError
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostic


class ConfigInvalid(StepmeshError):
    """The configuration cannot be used. `findings` holds everything that is wrong, each with its place."""

    default_code = "SM-0200"

    def __init__(self, message: str, findings: list[Diagnostic] | None = None, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
        self.findings = findings or []
