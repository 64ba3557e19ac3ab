"""A graph as Mermaid text (a flowchart). Dashed arrows: perhaps; labelled ones: skip and error. Classes colour pools or states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stepmesh_cli.picture.graph import EdgeKind, Graph, Node, NodeKind
from stepmesh_cli.picture.palette import pool_colours
from stepmesh_cli.picture.states import COLOURS, NOT_NEEDED, StepState

_ARROWS = {EdgeKind.NEEDS: "-->", EdgeKind.MAYBE: "-.->", EdgeKind.SKIP: "-. skip .->", EdgeKind.ERROR: "-. error .->"}


def mermaid(graph: Graph, states: Mapping[int, StepState] | None = None) -> str:
    """`states`: by step index; without it nodes are coloured by pool."""
    return "\n".join(_lines(graph, states)) + "\n"


def _lines(graph: Graph, states: Mapping[int, StepState] | None) -> Iterator[str]:
    yield "flowchart TD"
    for index, node in enumerate(graph.nodes):
        yield f"  n{index}{_shape(node, _state_of(graph, states, index))}"
    for edge in graph.edges:
        yield f"  n{edge.source} {_ARROWS[edge.kind]} n{edge.target}"
    yield from _classes(graph, states)


def _state_of(graph: Graph, states: Mapping[int, StepState] | None, node: int) -> StepState | None:
    return None if states is None or node not in graph.steps else states.get(graph.steps.index(node), NOT_NEEDED)


def _shape(node: Node, state: StepState | None) -> str:
    if node.kind is not NodeKind.STEP:
        return f'(["{_escaped(node.label)}"])'
    lines = [f"<b>{_escaped(node.label)}</b>", _escaped(node.component)]
    lines += [_escaped(text) for text in (f"pool {node.pool}" if node.pool else "", node.note, state.note if state else "") if text]
    return f'["{"<br/>".join(lines)}"]'


def _classes(graph: Graph, states: Mapping[int, StepState] | None) -> Iterator[str]:
    members: dict[tuple[str, str], list[int]] = {}
    colours = pool_colours(graph)
    for step, index in enumerate(graph.steps):
        if states is not None:
            status = states[step].status if step in states else "not_needed"
            members.setdefault((status, COLOURS.get(status, "#ffffff")), []).append(index)
        elif pool := graph.nodes[index].pool:
            members.setdefault((f"pool{list(colours).index(pool)}", colours[pool]), []).append(index)
    for (name, colour), indexes in members.items():
        yield f"  classDef {name} fill:{colour},stroke:#555,color:#111"
        yield f"  class {','.join(f'n{index}' for index in indexes)} {name}"


def _escaped(text: str) -> str:
    """Mermaid's entity codes for what it would read as its own."""
    return "".join(char if char.isalnum() or char in " _-./:,$" else f"#{ord(char)};" for char in text)
