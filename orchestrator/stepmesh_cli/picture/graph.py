"""A flow as nodes and edges: who needs whose result, and how surely.

Invariant: nodes are in an order in which edges point forwards (input, steps as written, output), so nothing here can have a cycle.
Reads a document that compiles; must not know how it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from stepmesh_orchestrator.core.flow.compiled import CompiledFlow

INPUT = "$input"


class NodeKind(Enum):
    """What a node stands for."""

    INPUT = "input"
    STEP = "step"
    OUTPUT = "output"


class EdgeKind(Enum):
    """Why the target looks at the source."""

    NEEDS = "needs"  # always
    MAYBE = "maybe"  # in a branch of $if, after the first of $coalesce, in a default
    SKIP = "skip"  # decides whether the target is skipped
    ERROR = "error"  # only when the target failed


STRENGTH = (EdgeKind.SKIP, EdgeKind.NEEDS, EdgeKind.MAYBE, EdgeKind.ERROR)
"""Of several reasons between two nodes the first of these is drawn."""


@dataclass(frozen=True, slots=True)
class Node:
    """`pool` is "" for input and output, and for a step that the configuration does not route. `note`: e.g. "mustExecute"."""

    kind: NodeKind
    label: str
    component: str = ""
    pool: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """From the node at index `source` to the one at `target`; `source` < `target`."""

    source: int
    target: int
    kind: EdgeKind


@dataclass(frozen=True, slots=True)
class Graph:
    """`steps`: the indexes of the steps' nodes, in the order of the flow."""

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    steps: range


def graph_of(document: Mapping[str, Any], flow: CompiledFlow, pool_of: Callable[[str, str | None], str]) -> Graph:
    """`pool_of(component, pool override)` names a step's pool, "" when there is none. The input is drawn when a step starts from it."""
    steps: Sequence[Mapping[str, Any]] = document.get("steps") or []
    uses = [_uses_of_step(step) for step in steps]
    output = list(_uses(document.get("output"), EdgeKind.NEEDS))
    roots = [index for index, used in enumerate(uses) if used and all(name == INPUT for name, _ in used)]
    first = 1 if roots or any(name == INPUT for name, _ in output) else 0
    place = {step.id: first + step.index for step in flow.steps}
    place[INPUT] = 0
    nodes = [Node(NodeKind.INPUT, "input")] * first
    nodes += [Node(NodeKind.STEP, one.id, one.component, pool_of(one.component, one.pool), _note(one.must_execute)) for one in flow.steps]
    nodes.append(Node(NodeKind.OUTPUT, "output"))
    edges = [Edge(0, first + index, EdgeKind.NEEDS) for index in roots]
    for index, used in enumerate(uses):
        edges += _edges([one for one in used if one[0] != INPUT], place, first + index)
    edges += _edges(output, place, len(nodes) - 1)
    return Graph(flow.name, tuple(nodes), tuple(edges), range(first, first + len(flow.steps)))


def _note(must_execute: bool) -> str:
    return "mustExecute" if must_execute else ""


def _edges(uses: Sequence[tuple[str, EdgeKind]], place: Mapping[str, int], target: int) -> list[Edge]:
    """One edge per source, of the strongest kind."""
    strongest: dict[str, EdgeKind] = {}
    for name, kind in uses:
        known = strongest.get(name)
        if known is None or STRENGTH.index(kind) < STRENGTH.index(known):
            strongest[name] = kind
    return [Edge(place[name], target, kind) for name, kind in strongest.items()]


def _uses_of_step(step: Mapping[str, Any]) -> list[tuple[str, EdgeKind]]:
    default = (step.get("onError") or {}).get("defaultValue")
    return [
        *_uses(step.get("input"), EdgeKind.NEEDS),
        *((name, EdgeKind.SKIP) for name, _ in _uses(step.get("skip"), EdgeKind.SKIP)),
        *((name, EdgeKind.ERROR) for name, _ in _uses(default, EdgeKind.ERROR)),
    ]


def _uses(expression: Any, kind: EdgeKind) -> Iterator[tuple[str, EdgeKind]]:
    """Steps (and `$input`) that an expression mentions."""
    if isinstance(expression, list):
        for part in expression:
            yield from _uses(part, kind)
    if not isinstance(expression, dict) or "$literal" in expression:
        return
    if "$if" in expression:
        yield from _uses(expression["$if"], kind)
        yield from _uses([expression.get("then"), expression.get("else")], EdgeKind.MAYBE)
    elif "$coalesce" in expression:
        elements = expression["$coalesce"] or []
        yield from _uses(elements[:1], kind)
        yield from _uses(elements[1:], EdgeKind.MAYBE)
    elif "$step" in expression:
        yield expression["$step"], kind
        yield from _uses((expression.get("onSkip") or {}).get("defaultValue"), EdgeKind.MAYBE)
    elif "$input" in expression:
        yield INPUT, kind
    elif "$variable" in expression:
        yield from _uses(expression.get("default"), EdgeKind.MAYBE)
    else:
        yield from _uses(list(expression.values()), kind)
