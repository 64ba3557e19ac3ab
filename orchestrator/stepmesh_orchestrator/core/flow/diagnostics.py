"""What can be wrong with a flow document, as values: code, level, path and line, what happened, the fix."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from stepmesh_broker.errors import StepmeshError


class Level(IntEnum):
    """Fatal and error stop a flow from being stored; a warning does not (but under `--strict` it is an error)."""

    FATAL = 1
    ERROR = 2
    WARNING = 3


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `path` is a JSON path into the document (`$.steps[2].input`); line and column count from 1, None when unknown."""

    code: str
    level: Level
    message: str
    path: str = "$"
    line: int | None = None
    column: int | None = None
    hint: str = ""


@dataclass(slots=True)
class Diagnostics:
    """All findings of one compilation, in document order of discovery."""

    items: list[Diagnostic] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """True when a fatal or an error is among them."""
        return any(item.level < Level.WARNING for item in self.items)


class FlowInvalid(StepmeshError):
    """The document is not a flow that can run. Carries every finding."""

    default_code = "SM-2000"

    def __init__(self, message: str, diagnostics: Diagnostics, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
        self.diagnostics = diagnostics
