"""A graph as a stand-alone SVG picture: layers from top to bottom, a legend below. Text is escaped; nothing is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

from rich.cells import cell_len

from stepmesh_cli.picture.graph import Edge, EdgeKind, Graph, Node
from stepmesh_cli.picture.layout import place
from stepmesh_cli.picture.palette import pool_colours
from stepmesh_cli.picture.states import COLOURS, NOT_NEEDED, StepState

_CHAR, _PAD, _HEIGHT, _GAP, _ROW, _MARGIN = 7.4, 14.0, 46.0, 28.0, 96.0, 24.0
"""Pixels: a character of the font, beside a label, of a node, between nodes, from layer to layer, around the picture."""
_LEGEND = 24.0
_DASHES = {EdgeKind.NEEDS: "", EdgeKind.MAYBE: "6 4", EdgeKind.SKIP: "2 4", EdgeKind.ERROR: "2 4"}
_STROKES = {EdgeKind.NEEDS: "#555555", EdgeKind.MAYBE: "#777777", EdgeKind.SKIP: "#8a5cc2", EdgeKind.ERROR: "#c0392b"}


def svg(graph: Graph, states: Mapping[int, StepState] | None = None) -> str:
    """`states`: by step index; without it nodes are coloured by pool."""
    sizes = [_width(node) for node in graph.nodes]
    placed = place(sizes, [(edge.source, edge.target) for edge in graph.edges], _GAP)
    legend = _legend(graph, states)
    width = max(placed.width, 160.0, sum(_CHAR * cell_len(text) + 40 for text, _ in legend)) + 2 * _MARGIN
    height = (placed.layers - 1) * _ROW + _HEIGHT + 2 * _MARGIN + (_LEGEND if legend else 0)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(graph.name or 'flow')}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        *_markers(),
        *(line for edge, route in zip(graph.edges, placed.routes, strict=True) for line in _edge(edge, route)),
        *(
            line
            for index, (fill, state) in enumerate(_fills(graph, states))
            for line in _node(graph.nodes[index], (placed.x[index], _top(placed.layer[index])), sizes[index], fill, state)
        ),
        *_legend_lines(legend, height - _MARGIN),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _width(node: Node) -> float:
    return _CHAR * max(cell_len(node.label), cell_len(node.component), 6) + 2 * _PAD


def _top(layer: int) -> float:
    return _MARGIN + layer * _ROW


def _markers() -> Iterator[str]:
    for kind, colour in _STROKES.items():
        yield (
            f'<marker id="{kind.value}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
        )


def _edge(edge: Edge, route: list[tuple[float, int]]) -> Iterator[str]:
    """Down through the waypoints, each stretch an S that leaves and arrives vertically."""
    (x, layer), *rest = route
    y = _top(layer) + _HEIGHT
    path = [f"M{x + _MARGIN:.1f} {y:.1f}"]
    for number, (next_x, next_layer) in enumerate(rest):
        last = number == len(rest) - 1
        next_y = _top(next_layer) + (0 if last else _HEIGHT / 2)
        middle = (y + next_y) / 2
        path.append(f"C{x + _MARGIN:.1f} {middle:.1f} {next_x + _MARGIN:.1f} {middle:.1f} {next_x + _MARGIN:.1f} {next_y:.1f}")
        x, y = next_x, next_y
    dash = f' stroke-dasharray="{_DASHES[edge.kind]}"' if _DASHES[edge.kind] else ""
    style = f'fill="none" stroke="{_STROKES[edge.kind]}" stroke-width="1.4"{dash} marker-end="url(#{edge.kind.value})"'
    yield f'<path class="{edge.kind.value}" d="{"".join(path)}" {style}/>'
    if edge.kind in (EdgeKind.SKIP, EdgeKind.ERROR):
        yield (f'<text x="{x + _MARGIN + 6:.1f}" y="{y - 10:.1f}" font-size="10" fill="{_STROKES[edge.kind]}">{edge.kind.value}</text>')


def _node(node: Node, at: tuple[float, float], width: float, fill: str, state: StepState | None) -> Iterator[str]:
    x, y = at[0] + _MARGIN, at[1]
    told = ", ".join(text for text in (node.component, node.pool and f"pool {node.pool}", node.note, state.note if state else "") if text)
    radius, stroke = (6 if node.component else _HEIGHT / 2), (2.4 if node.note else 1.2)
    yield f'<g class="{node.kind.value}"><title>{escape(node.label + (": " + told if told else ""))}</title>'
    yield (
        f'<rect x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_HEIGHT:.0f}" rx="{radius:.0f}" fill="{fill}" '
        f'stroke="#555555" stroke-width="{stroke}"/>'
    )
    label_y = y + (19 if node.component else _HEIGHT / 2 + 5)
    yield f'<text x="{x:.1f}" y="{label_y:.1f}" text-anchor="middle" font-weight="600">{escape(node.label)}</text>'
    if node.component:
        below = node.component if state is None or state.note == state.status else state.note
        yield f'<text x="{x:.1f}" y="{y + 36:.1f}" text-anchor="middle" font-size="11" fill="#444444">{escape(below)}</text>'
    yield "</g>"


def _fills(graph: Graph, states: Mapping[int, StepState] | None) -> list[tuple[str, StepState | None]]:
    """Colour and state of each node."""
    pools = pool_colours(graph)
    found: list[tuple[str, StepState | None]] = [("#ffffff", None)] * len(graph.nodes)
    for step, index in enumerate(graph.steps):
        if states is None:
            found[index] = pools.get(graph.nodes[index].pool, "#ffffff"), None
        else:
            state = states.get(step, NOT_NEEDED)
            found[index] = COLOURS.get(state.status, "#ffffff"), state
    return found


def _legend(graph: Graph, states: Mapping[int, StepState] | None) -> list[tuple[str, str]]:
    if states is None:
        return [(f"pool {pool}", colour) for pool, colour in pool_colours(graph).items()]
    used = {states[step].status if step in states else "not_needed" for step in range(len(graph.steps))}
    return [(status, COLOURS[status]) for status in COLOURS if status in used]


def _legend_lines(legend: list[tuple[str, str]], y: float) -> Iterator[str]:
    x = _MARGIN
    for text, colour in legend:
        yield f'<rect x="{x:.1f}" y="{y - 11:.1f}" width="13" height="13" rx="3" fill="{colour}" stroke="#555555"/>'
        yield f'<text x="{x + 19:.1f}" y="{y:.1f}" font-size="12">{escape(text)}</text>'
        x += _CHAR * cell_len(text) + 40
