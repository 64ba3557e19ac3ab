"""Pictures of flows: which edges there are, that the layout keeps its promises, and each form of drawing."""

from __future__ import annotations

import io
import random
import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from stepmesh_broker.protocol.api import StepStatus
from stepmesh_cli.picture import Edge, EdgeKind, Graph, Node, NodeKind, graph_of
from stepmesh_cli.picture.layout import place
from stepmesh_cli.picture.mermaid import mermaid
from stepmesh_cli.picture.states import StepState, states_of
from stepmesh_cli.picture.svg import svg
from stepmesh_cli.picture.text import drawing
from stepmesh_orchestrator.core.flow.compile import compile_flow

SVG = "{http://www.w3.org/2000/svg}"


def graph(steps: list[dict[str, Any]], output: Any) -> Graph:
    document = {"name": "f", "description": "d", "steps": [{"component": "/cpu/x", **step} for step in steps], "output": output}
    flow, diagnostics = compile_flow(document)
    assert flow is not None, diagnostics
    return graph_of(document, flow, lambda component, override: override or component.split("/")[1])


def edges(one: Graph) -> set[tuple[str, str, str]]:
    return {(one.nodes[edge.source].label, one.nodes[edge.target].label, edge.kind.value) for edge in one.edges}


def ref(step: str, **more: Any) -> dict[str, Any]:
    return {"$step": step, **more}


# --- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        (ref("a"), {("a", "needs")}),
        ([1, {"x": [ref("a"), ref("b")]}], {("a", "needs"), ("b", "needs")}),
        ({"$literal": ref("a")}, set()),
        ({"$if": ref("a"), "then": ref("b"), "else": ref("c")}, {("a", "needs"), ("b", "maybe"), ("c", "maybe")}),
        ({"$coalesce": [ref("a"), ref("b"), None]}, {("a", "needs"), ("b", "maybe")}),
        ({"$coalesce": []}, set()),
        (ref("a", onSkip={"action": "useDefault", "defaultValue": ref("b")}), {("a", "needs"), ("b", "maybe")}),
        ({"$variable": "v", "default": ref("a")}, {("a", "maybe")}),
        ({"$if": ref("a"), "then": ref("a")}, {("a", "needs")}),
        ({"$if": {"$input": "x"}, "then": {"$if": ref("a"), "then": 1}}, {("a", "maybe")}),
    ],
)
def test_kinds_of_edges(expression: Any, found: set[tuple[str, str]]) -> None:
    one = graph([{"id": name} for name in "abc"] + [{"id": "use", "input": expression}], ref("use"))
    assert {(source, kind) for source, target, kind in edges(one) if target == "use"} == found


def test_skip_and_error_edges_and_the_strongest_of_several() -> None:
    steps = [{"id": name} for name in "abc"]
    default = {"action": "useDefault", "defaultValue": [ref("c"), ref("b"), {"$error": "code"}]}
    steps.append({"id": "use", "input": [ref("a"), ref("b")], "skip": {"$if": ref("a"), "then": 1}, "onError": default})
    assert {one for one in edges(graph(steps, ref("use"))) if one[1] == "use"} == {
        ("a", "use", "skip"), ("b", "use", "needs"), ("c", "use", "error"),
    }  # fmt: skip


def test_input_is_drawn_where_something_starts_from_it() -> None:
    assert ("input", "s", "needs") in edges(graph([{"id": "s", "input": {"$input": "$"}}], ref("s")))
    assert ("input", "output", "needs") in edges(graph([], {"$input": "$"}))
    assert [node.label for node in graph([{"id": "s", "input": 1}], ref("s")).nodes] == ["s", "output"]
    both = graph([{"id": "a"}, {"id": "s", "input": [{"$input": "$"}, ref("a")]}], ref("s"))
    assert "input" not in {node.label for node in both.nodes}


def test_pools_and_notes() -> None:
    one = graph([{"id": "a", "mustExecute": True}, {"id": "b", "pool": "gpu"}], None)
    assert [(node.pool, node.note) for node in one.nodes] == [("cpu", "mustExecute"), ("gpu", ""), ("", "")]


# --- layout ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**32))
def test_layout_of_any_graph(count: int, seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.uniform(1, 40) for _ in range(count)]
    pairs = [(source, target) for target in range(count) for source in range(target) if chance.random() < 0.15]
    placed = place(sizes, pairs, 3)
    for source, target in pairs:
        assert placed.layer[source] < placed.layer[target]
    assert placed.layer[-1] == placed.layers - 1
    for layer in range(placed.layers):
        row = sorted((placed.x[n], sizes[n]) for n in range(count) if placed.layer[n] == layer)
        assert row[0][0] - row[0][1] / 2 >= -1e-6
        assert row[-1][0] + row[-1][1] / 2 <= placed.width + 1e-6
        for (x, size), (next_x, next_size) in pairwise(row):
            assert next_x - x >= (size + next_size) / 2 + 3 - 1e-6
    for (source, target), route in zip(pairs, placed.routes, strict=True):
        assert [layer for _, layer in route] == list(range(placed.layer[source], placed.layer[target] + 1))
        assert (route[0][0], route[-1][0]) == (placed.x[source], placed.x[target])


def test_a_chain_is_straight_and_a_fork_symmetric() -> None:
    chain = place([10, 10, 10], [(0, 1), (1, 2)], 3)
    assert len({round(x, 6) for x in chain.x}) == 1
    fork = place([10, 10, 10, 10], [(0, 1), (0, 2), (1, 3), (2, 3)], 4)
    assert fork.x[0] == pytest.approx((fork.x[1] + fork.x[2]) / 2)
    assert fork.x[0] == pytest.approx(fork.x[3])


def test_without_crossings_where_there_need_be_none() -> None:
    placed = place([5] * 7, [(0, 4), (1, 3), (2, 5), (3, 6), (4, 6), (5, 6)], 2)
    tops = sorted(range(3), key=lambda n: placed.x[n])
    below = {0: 4, 1: 3, 2: 5}
    assert [below[n] for n in tops] == sorted((3, 4, 5), key=lambda n: placed.x[n])


def test_a_large_graph_goes_without_waypoints() -> None:
    pairs = [(n, n + 1) for n in range(299)] + [(n, 299) for n in range(298)]
    assert {len(route) for route in place([1] * 300, pairs, 1).routes} == {2}


def test_nothing_at_all() -> None:
    assert place([], [], 1).width == 0


# --- states ----------------------------------------------------------------------------------------------------------


def status(step: int, name: str, item: int = 0) -> StepStatus:
    return StepStatus(item, step, f"s{step}", "/x", name, 1)


def test_states_of_one_item_and_of_many() -> None:
    assert states_of([status(0, "success"), status(2, "running")], 1) == {
        0: StepState("success", "success"),
        2: StepState("running", "running"),
    }
    many = [status(0, "success", 0), status(0, "failed", 1), status(0, "success", 2), status(1, "skipped", 0), status(1, "success", 1)]
    assert states_of(many, 3) == {0: StepState("failed", "1 failed, 2 success"), 1: StepState("success", "1 success, 1 skipped")}
    assert states_of([status(0, "of the future")], 1)[0].status == "of the future"


# --- drawings --------------------------------------------------------------------------------------------------------

NASTY = 'a"<b>&`[x]é日本'
SAMPLE = graph(
    [
        {"id": "one", "input": {"$input": "$"}},
        {"id": NASTY, "component": "/gpu/x", "input": ref("one")},
        {"id": "three", "input": {"$if": ref(NASTY), "then": ref("one")}, "skip": ref("one"), "mustExecute": True},
    ],
    {"$coalesce": [ref("three"), ref("one")]},
)
STATES = {0: StepState("success", "2 success"), 1: StepState("failed", "failed")}


def test_svg_is_well_formed_and_complete() -> None:
    root = ET.fromstring(svg(SAMPLE))
    texts = {element.text for element in root.iter(f"{SVG}text")}
    assert texts >= {"one", NASTY, "three", "output", "input", "/gpu/x", "pool cpu", "pool gpu", "skip"}
    paths = [element for element in root.iter(f"{SVG}path") if element.get("class")]
    assert [*sorted(element.get("class") or "" for element in paths)] == ["maybe", "needs", "needs", "needs", "needs", "skip"]
    assert all((element.get("stroke-dasharray") is None) == (element.get("class") == "needs") for element in paths)


def test_svg_nodes_lie_inside_and_apart() -> None:
    root = ET.fromstring(svg(SAMPLE))
    boxes = []
    for group in root.iter(f"{SVG}g"):
        box = group.find(f"{SVG}rect")
        assert box is not None
        boxes.append(tuple(float(box.get(name) or 0) for name in ("x", "y", "width", "height")))
    for index, (x, y, width, height) in enumerate(boxes):
        assert x >= 0
        assert x + width <= float(root.get("width") or 0)
        assert y + height <= float(root.get("height") or 0)
        for other_x, other_y, other_width, other_height in boxes[index + 1 :]:
            assert x + width <= other_x or other_x + other_width <= x or y + height <= other_y or other_y + other_height <= y


def test_svg_with_states_has_their_colours_and_legend() -> None:
    text = svg(SAMPLE, STATES)
    texts = {element.text for element in ET.fromstring(text).iter(f"{SVG}text")}
    assert texts >= {"success", "failed", "not_needed", "2 success"}
    assert "pool cpu" not in texts
    assert "#f4b6b6" in text


def test_mermaid_marks_edges_pools_and_escapes_labels() -> None:
    text = mermaid(SAMPLE)
    assert text.startswith("flowchart TD\n")
    assert all(arrow in text for arrow in ("-->", "-.->", "-. skip .->"))
    assert "classDef pool0" in text
    assert "class n2 pool1" in text
    labels = next(line for line in text.splitlines() if line.startswith("  n2["))
    assert labels.count('"') == 2
    assert "&" not in labels
    assert "#60;b#62;" in labels


def test_mermaid_with_states() -> None:
    text = mermaid(SAMPLE, STATES)
    assert "class n2 failed" in text
    assert "2 success" in text


def drawn(one: Graph, width: int, states: dict[int, StepState] | None = None) -> str:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(drawing(one, width, states), soft_wrap=True)
    return file.getvalue()


def test_terminal_drawing() -> None:
    two = graph([{"id": "a"}, {"id": "b", "input": ref("a")}], ref("b"))
    assert drawn(two, 80).splitlines()[:14] == [
        "f",
        "    ┌───┐",
        "    │ a │",
        "    └───┘",
        "      │",
        "      ▼",
        "    ┌───┐",
        "    │ b │",
        "    └───┘",
        "      │",
        "      ▼",
        "┌──────────┐",
        "│ (output) │",
        "└──────────┘",
    ]


def test_terminal_drawing_has_every_node_whole_and_marks() -> None:
    text = drawn(SAMPLE, 100)
    assert all(f"│ {label} │" in text for label in ("(input)", "one", NASTY, "three", "(output)"))
    assert all(mark in text for mark in "▼◇")
    assert "┆" in text
    assert "■ pool gpu" in text


def test_what_is_too_wide_is_listed() -> None:
    assert "┌" not in drawn(SAMPLE, 12)
    wide = graph([{"id": f"step{n}"} for n in range(40)], [ref(f"step{n}") for n in range(40)])
    listed = drawn(wide, 100, {0: StepState("failed", "failed")})
    assert "┌" not in listed
    assert "component" in listed
    assert "step39" in listed
    assert "failed" in listed


def test_terminal_states() -> None:
    text = drawn(SAMPLE, 100, STATES)
    assert "■ failed" in text
    assert "■ not_needed" in text


@pytest.mark.parametrize("form", [svg, mermaid, lambda one: drawn(one, 80)])
def test_a_flow_without_steps(form: Any) -> None:
    assert "output" in form(graph([], 1))
    assert "output" in form(
        Graph("", (Node(NodeKind.INPUT, "input"), Node(NodeKind.OUTPUT, "output")), (Edge(0, 1, EdgeKind.NEEDS),), range(0))
    )
