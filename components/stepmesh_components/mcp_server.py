"""What is known of an MCP server before it runs, and whether this install can talk to one. Imports nothing of the `mcp` package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

from stepmesh import StepmeshError

START_TIMEOUT_S = 60.0
"""A server that has not told its tools by then is ended and started again, in seconds; `npx` and `uvx` may download first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """Either `command` (started here, spoken to over its stdin and stdout) or `url` (streamable HTTP, with `headers`).

    `env` is added to a safe minimum (HOME, PATH and the like); nothing else of this process is passed on. `folder`: where the command
    starts.
    """

    name: str
    pool: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    folder: str | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    start_timeout_s: float = START_TIMEOUT_S

    @property
    def place(self) -> str:
        """Where it is, for a person; without arguments and headers, which may hold secrets."""
        return self.url if self.url is not None else str(self.command)


def require_mcp(wanted_by: str) -> None:
    """Raises `StepmeshError` SM-0130 when the `mcp` package is not installed. `wanted_by`: what needs it."""
    if find_spec("mcp") is None:
        raise StepmeshError(
            f"{wanted_by} needs the package mcp, which this install lacks", code="SM-0130", hint="pip install 'stepmesh[mcp]'"
        )
