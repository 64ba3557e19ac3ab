"""One colour per pool, the same in every form of picture."""

from __future__ import annotations

from stepmesh_cli.picture.graph import Graph

_FILLS = ("#cfe3f7", "#fde2c4", "#d6ecd2", "#eadcf4", "#f9d5d9", "#d4efee", "#f3ecc2", "#e2e2e2")
_TERMINAL = ("bright_blue", "yellow", "green", "magenta", "red", "cyan", "bright_yellow", "white")


def pools_of(graph: Graph) -> list[str]:
    """In order of first use."""
    return list(dict.fromkeys(node.pool for node in graph.nodes if node.pool))


def pool_colours(graph: Graph) -> dict[str, str]:
    """CSS colours; they repeat after eight pools."""
    return {pool: _FILLS[index % len(_FILLS)] for index, pool in enumerate(pools_of(graph))}


def pool_terminal_colours(graph: Graph) -> dict[str, str]:
    """rich's colours; they repeat after eight pools."""
    return {pool: _TERMINAL[index % len(_TERMINAL)] for index, pool in enumerate(pools_of(graph))}
