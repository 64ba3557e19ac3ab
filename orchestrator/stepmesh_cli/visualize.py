"""`stepmesh visualize`: a flow as a picture, and with `--run` how far its steps are."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter
from rich.console import Console

from stepmesh_broker.protocol.api import FlowData, GetFlow, GetSteps, Steps
from stepmesh_broker.protocol.messages import Failure
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.errors import CommandError
from stepmesh_cli.flow_files import read_config, read_flow
from stepmesh_cli.picture import Graph, graph_of
from stepmesh_cli.picture.states import NOT_NEEDED, StepState, states_of
from stepmesh_cli.plugins import parts_of
from stepmesh_orchestrator.core.flow.compile import compile_flow
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.flow.routing import Router

Format = Literal["mermaid", "svg", "text", "json"]
_BY_SUFFIX: dict[str, Format] = {".svg": "svg", ".mmd": "mermaid", ".mermaid": "mermaid", ".md": "mermaid", ".txt": "text", ".json": "json"}


@dataclass(frozen=True, slots=True)
class _Seen:
    """A run: its flow, and its steps' states."""

    document: dict[str, Any]
    flow: CompiledFlow
    states: dict[int, StepState]


def visualize(
    flow: str | None = None,
    *,
    format: Annotated[Format | None, Parameter(help="Default: what --output's suffix says, else text.")] = None,
    output: Annotated[Path | None, Parameter(help="File to write; default is stdout.")] = None,
    run: Annotated[str | None, Parameter(help="Colour the steps by their state in this run; FLOW may be left out.")] = None,
    config: Annotated[Path | None, Parameter(help="Configuration whose routes name the pools.")] = None,
    target: Target = HERE,
    json: Annotated[bool, Parameter(help="The same as --format json: nodes and edges.")] = False,
) -> int:
    """Draw a flow file, or the flow of a run.

    Example: stepmesh visualize flow.yaml --output flow.svg
    """
    if flow is None and run is None:
        raise CommandError("neither a flow nor a run was given", hint="stepmesh visualize FLOW, or --run RUN")
    seen = None if run is None else run_to_end(_look(run, target))
    document, compiled = _read(flow) if flow is not None else (seen.document, seen.flow)  # type: ignore[union-attr]  # one of both is there
    if seen is not None and seen.flow.id != compiled.id and [one.id for one in seen.flow.steps] != [one.id for one in compiled.steps]:
        raise CommandError(f"run {run} is of another flow than {flow}", hint="leave FLOW out to draw the run's own")
    loaded, _ = read_config(config, flow)
    graph = graph_of(document, compiled, _pools(parts_of(loaded).router))
    chosen: Format = "json" if json else format or _BY_SUFFIX.get(output.suffix.lower() if output is not None else "", "text")
    _write(graph, None if seen is None else seen.states, chosen, output)
    return exits.OK


def _read(path: str) -> tuple[dict[str, Any], CompiledFlow]:
    document, compiled = read_flow(path)
    return document.value, compiled


async def _look(run: str, target: Target) -> _Seen:
    """Raises `RunNotFound`."""
    async with connected(target) as client:
        summary = (await client.get_run(run)).summary
        steps = (await client.requests.ask(GetSteps(summary.run), Steps)).steps
        stored = (await client.requests.ask(GetFlow(summary.flow), FlowData)).document
    document = msgspec.json.decode(stored)
    compiled, _ = compile_flow(document)
    if compiled is None:
        raise CommandError(f"the flow of run {run} cannot be read by this version", hint="use the version of the deployment")
    return _Seen(document, compiled, states_of(steps, summary.total))


def _pools(router: Router) -> Any:
    def pool_of(component: str, override: str | None) -> str:
        route = router.route(component, b"null", override)
        return "" if isinstance(route, Failure) else route.pool

    return pool_of


def _write(graph: Graph, states: dict[int, StepState] | None, chosen: Format, output: Path | None) -> None:
    if output is None:
        _print(graph, states, chosen, Console(file=sys.stdout, highlight=False, emoji=False))
        return
    try:
        with output.open("w", encoding="utf-8") as file:
            _print(graph, states, chosen, Console(file=file, width=200, highlight=False, emoji=False))
    except OSError as problem:
        raise CommandError(f"{output} cannot be written: {problem.strerror}", hint="choose another --output") from problem


def _print(graph: Graph, states: dict[int, StepState] | None, chosen: Format, console: Console) -> None:
    if chosen == "svg":
        from stepmesh_cli.picture.svg import svg

        console.file.write(svg(graph, states))
    elif chosen == "mermaid":
        from stepmesh_cli.picture.mermaid import mermaid

        console.file.write(mermaid(graph, states))
    elif chosen == "json":
        console.file.write(_as_json(graph, states) + "\n")
    else:
        from stepmesh_cli.picture.text import drawing

        console.print(drawing(graph, console.width, states), soft_wrap=True)


def _as_json(graph: Graph, states: dict[int, StepState] | None) -> str:
    """`{name, nodes: [{kind, label, component, pool, note, state?}], edges: [{source, target, kind}]}`; edges go by index."""
    nodes = [{**msgspec.to_builtins(node), "kind": node.kind.value} for node in graph.nodes]
    for step, index in enumerate(graph.steps):
        if states is not None:
            nodes[index]["state"] = states.get(step, NOT_NEEDED).note
    return msgspec.json.encode({"name": graph.name, "nodes": nodes, "edges": graph.edges}).decode()
