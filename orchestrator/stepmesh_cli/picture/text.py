"""A graph drawn with box characters, for a terminal; a list of the steps when it is too wide for that.

A canvas of cells: each holds a character, or the directions in which lines leave it, so that lines that meet join.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stepmesh_cli.picture.graph import STRENGTH, Edge, EdgeKind, Graph, Node, NodeKind
from stepmesh_cli.picture.layout import Placed, place
from stepmesh_cli.picture.palette import pool_terminal_colours
from stepmesh_cli.picture.states import NOT_NEEDED, TERMINAL, StepState

_UP, _DOWN, _LEFT, _RIGHT = 1, 2, 4, 8
_JOINS = {
    _UP: "│", _DOWN: "│", _UP | _DOWN: "│", _LEFT: "─", _RIGHT: "─", _LEFT | _RIGHT: "─", _DOWN | _RIGHT: "╭", _DOWN | _LEFT: "╮",
    _UP | _RIGHT: "╰", _UP | _LEFT: "╯", _UP | _DOWN | _RIGHT: "├", _UP | _DOWN | _LEFT: "┤", _DOWN | _LEFT | _RIGHT: "┬",
    _UP | _LEFT | _RIGHT: "┴", _UP | _DOWN | _LEFT | _RIGHT: "┼",
}  # fmt: skip
_DASHED = {"│": "┆", "─": "┄"}
_HEADS = {EdgeKind.NEEDS: "▼", EdgeKind.MAYBE: "▽", EdgeKind.SKIP: "◇", EdgeKind.ERROR: "✗"}
LEGEND = "▼ needs   ▽ perhaps ($if, $coalesce, defaults)   ◇ skip   ✗ on error"


@dataclass(slots=True)
class _Cell:
    joins: int = 0
    char: str = ""
    style: str = ""
    dashed: bool = True

    def shown(self) -> str:
        line = _JOINS.get(self.joins, " ")
        return self.char or (_DASHED.get(line, line) if self.dashed else line)


class _Canvas:
    def __init__(self) -> None:
        self.rows: dict[int, dict[int, _Cell]] = {}

    def at(self, row: int, column: int) -> _Cell:
        return self.rows.setdefault(row, {}).setdefault(column, _Cell())

    def line(self, row: int, column: int, joins: int, dashed: bool) -> None:
        cell = self.at(row, column)
        cell.joins |= joins
        cell.dashed = cell.dashed and dashed

    def write(self, row: int, column: int, text: str, style: str) -> None:
        for char in text:
            cell = self.at(row, column)
            cell.char, cell.style = char, style
            column += cell_len(char) or 1

    def lines(self) -> list[Text]:
        return [self._row(row) for row in range(max(self.rows, default=-1) + 1)]

    def _row(self, row: int) -> Text:
        text, column = Text(no_wrap=True), 0
        for at, cell in sorted(self.rows.get(row, {}).items(), key=lambda one: one[0]):
            text.append(" " * (at - column))
            text.append(cell.shown(), cell.style)
            column = at + (cell_len(cell.char) or 1)
        return text


def drawing(graph: Graph, width: int, states: Mapping[int, StepState] | None = None) -> RenderableType:
    """At most `width` columns wide: a picture, or a table when that does not fit."""
    labels = [_label(node) for node in graph.nodes]
    placed = place([cell_len(label) + 4 for label in labels], [(edge.source, edge.target) for edge in graph.edges], 3)
    if placed.width + 1 > width:
        return Group(*_title(graph), _table(graph, states))
    return Group(*_title(graph), *_picture(graph, labels, placed, states).lines(), Text(LEGEND, "dim"), *_pools(graph, states))


def _title(graph: Graph) -> list[Text]:
    return [Text(graph.name, "bold")] if graph.name else []


def _label(node: Node) -> str:
    return node.label if node.kind is NodeKind.STEP else f"({node.label})"


def _picture(graph: Graph, labels: list[str], placed: Placed, states: Mapping[int, StepState] | None) -> _Canvas:
    canvas = _Canvas()
    lanes = _lanes(graph, placed)
    tops, row = [0] * placed.layers, 0
    for layer in range(placed.layers):
        tops[layer] = row
        row += 3 + 2 + max((lane for (_, at), lane in lanes.items() if at == layer), default=0)
    strongest_last = sorted(zip(graph.edges, placed.routes, strict=True), key=lambda one: STRENGTH.index(one[0].kind), reverse=True)
    for edge, route in strongest_last:
        _draw_edge(canvas, edge.kind, edge.source, route, tops, lanes)
    for index, style in enumerate(_styles(graph, states)):
        _draw_node(canvas, labels[index], tops[placed.layer[index]], round(placed.x[index]), style)
    return canvas


def _lanes(graph: Graph, placed: Placed) -> dict[tuple[int, int], int]:
    """(source node, layer) → which row of the gap below that layer its sideways lines use: none that overlap share one."""
    spans: dict[tuple[int, int], tuple[int, int]] = {}
    for edge, route in zip(graph.edges, placed.routes, strict=True):
        for (x, layer), (next_x, _) in pairwise(route):
            low, high = spans.get((edge.source, layer), (round(x), round(x)))
            spans[edge.source, layer] = min(low, round(x), round(next_x)), max(high, round(x), round(next_x))
    lanes: dict[tuple[int, int], int] = {}
    taken: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (source, layer), (low, high) in sorted(spans.items(), key=lambda one: (one[0][1], one[1])):
        lane = 0
        while any(low <= other_high and other_low <= high for other_low, other_high in taken.get((layer, lane), [])):
            lane += 1
        taken.setdefault((layer, lane), []).append((low, high))
        lanes[source, layer] = lane
    return lanes


def _draw_edge(
    canvas: _Canvas, kind: EdgeKind, source: int, route: list[tuple[float, int]], tops: list[int], lanes: Mapping[tuple[int, int], int]
) -> None:
    dashed = kind is not EdgeKind.NEEDS
    for number, ((x, layer), (next_x, next_layer)) in enumerate(pairwise(route)):
        start, end = round(x), round(next_x)
        top = tops[layer] + (3 if number == 0 else 2)
        turn = tops[layer] + 3 + lanes[source, layer]
        last = number == len(route) - 2
        bottom = tops[next_layer] - 1 if last else tops[next_layer] + 1
        for row in range(top, turn):
            canvas.line(row, start, _UP | _DOWN, dashed)
        if start == end:
            canvas.line(turn, start, _UP | _DOWN, dashed)
        else:
            canvas.line(turn, start, _UP | (_RIGHT if end > start else _LEFT), dashed)
            for column in range(min(start, end) + 1, max(start, end)):
                canvas.line(turn, column, _LEFT | _RIGHT, dashed)
            canvas.line(turn, end, _DOWN | (_LEFT if end > start else _RIGHT), dashed)
        for row in range(turn + 1, bottom + 1):
            canvas.line(row, end, _UP | _DOWN, dashed)
        if last:
            canvas.write(bottom, end, _HEADS[kind], "")


def _draw_node(canvas: _Canvas, label: str, top: int, centre: int, style: str) -> None:
    width = cell_len(label) + 2
    left = centre - (width + 2) // 2
    for row, text in enumerate((f"┌{'─' * width}┐", f"│ {label} │", f"└{'─' * width}┘")):
        canvas.write(top + row, left, text, style)


def _styles(graph: Graph, states: Mapping[int, StepState] | None) -> list[str]:
    """By node."""
    styles = ["bold"] * len(graph.nodes)
    pools = pool_terminal_colours(graph)
    for step, index in enumerate(graph.steps):
        if states is None:
            styles[index] = pools.get(graph.nodes[index].pool, "")
        else:
            styles[index] = TERMINAL.get(states.get(step, NOT_NEEDED).status, "")
    return styles


def _pools(graph: Graph, states: Mapping[int, StepState] | None) -> list[Text]:
    if states is None:
        return [Text(f"■ pool {pool}", colour) for pool, colour in pool_terminal_colours(graph).items()]
    used = dict.fromkeys(states[step].status if step in states else "not_needed" for step in range(len(graph.steps)))
    return [Text(f"■ {status}", TERMINAL.get(status, "")) for status in used]


def _table(graph: Graph, states: Mapping[int, StepState] | None) -> Table:
    table = Table("step", "component", "pool", "needs", *(["state"] if states is not None else []), box=None)
    styles = _styles(graph, states)
    into: dict[int, list[Edge]] = {}
    for edge in graph.edges:
        into.setdefault(edge.target, []).append(edge)
    for step, index in enumerate(graph.steps):
        node = graph.nodes[index]
        needs = ", ".join(_needed(graph, edge.source, edge.kind) for edge in into.get(index, []))
        state = states.get(step, NOT_NEEDED).note if states is not None else None
        cells = [node.label, node.component, node.pool, needs] + ([state] if state is not None else [])
        table.add_row(*(Text(cell) for cell in cells), style=styles[index])
    return table


def _needed(graph: Graph, source: int, kind: EdgeKind) -> str:
    label = _label(graph.nodes[source])
    return label if kind is EdgeKind.NEEDS else f"{label} ({'perhaps' if kind is EdgeKind.MAYBE else kind.value})"
