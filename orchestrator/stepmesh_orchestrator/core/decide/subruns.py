"""Sub-runs of `/eval`, `/map` and `/iterate`: starting them, and what their end means for the step that waits.

A sub-run lives on the partition of its root, shares the root's limit of tasks in flight, and has an id that is derived from the
step, the attempt and the iteration; so deciding twice names the same run.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from stepmesh_broker.protocol.ids import FlowId, child_run_id
from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.decide import failure, finish, results
from stepmesh_orchestrator.core.effects import NeedFlow
from stepmesh_orchestrator.core.events import Parent, RunCreated, RunSeeded
from stepmesh_orchestrator.core.failures import flow_result
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow, CompiledStep
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import CHILD, FETCHING, Item, Run, Tree

CANCELLED = Failure(ErrorCode.CANCELLED, "cancelled before it started")
_NULL = msgspec.Raw(b"null")


class _Eval(msgspec.Struct, forbid_unknown_fields=True):
    flow_id: str | None = None
    flow: msgspec.Raw = _NULL  # not `Raw | None`: that accepts nothing but null
    input: msgspec.Raw = _NULL
    variables: dict[str, msgspec.Raw] | None = None


class _Map(msgspec.Struct, forbid_unknown_fields=True):
    items: list[msgspec.Raw]
    workflow: msgspec.Raw = _NULL
    flow_id: str | None = None
    max_concurrency: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _Iterate(msgspec.Struct, forbid_unknown_fields=True):
    flow: msgspec.Raw = _NULL
    flow_id: str | None = None
    initial_input: msgspec.Raw = _NULL
    max_iterations: Annotated[int, msgspec.Meta(ge=1)] | None = None


_eval_input = msgspec.json.Decoder(_Eval)
_map_input = msgspec.json.Decoder(_Map)
_iterate_input = msgspec.json.Decoder(_Iterate)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def evaluate(session: Session, item: Item, step: CompiledStep, value: bytes) -> None:
    """`/eval`: one sub-run of a flow on one input; the step's output holds its FlowResult, whatever that is."""
    try:
        request = _eval_input.decode(value)
    except (msgspec.MsgspecError, RecursionError) as problem:
        _bad_input(session, item, step, f"/eval: {problem}")
        return
    variables = None if request.variables is None else msgspec.json.encode(request.variables)
    _start(session, item, step, "eval", request.flow_id, request.flow, [bytes(request.input)], variables=variables)


def map_items(session: Session, item: Item, step: CompiledStep, value: bytes) -> None:
    """`/map`: one sub-run with an item per element; the output lists their FlowResults in order."""
    try:
        request = _map_input.decode(value)
    except (msgspec.MsgspecError, RecursionError) as problem:
        _bad_input(session, item, step, f"/map: {problem}")
        return
    if len(request.items) > session.settings.max_items:
        _bad_input(session, item, step, f"/map: {len(request.items)} items; the limit is {session.settings.max_items}")
        return
    inputs = [bytes(element) for element in request.items]
    _start(session, item, step, "map", request.flow_id, request.workflow, inputs, item_limit=min(request.max_concurrency or 0, len(inputs)))


def iterate(session: Session, item: Item, step: CompiledStep, value: bytes) -> None:
    """`/iterate`: sub-runs in a row, each on what the one before named `next`, until one names `result`."""
    try:
        request = _iterate_input.decode(value)
    except (msgspec.MsgspecError, RecursionError) as problem:
        _bad_input(session, item, step, f"/iterate: {problem}")
        return
    _start(session, item, step, "iterate", request.flow_id, request.flow, [bytes(request.initial_input)])


def child_ended(session: Session, run: Run) -> None:
    """A run is over. If a core step waits for it, that step goes on."""
    parent = run.parent
    if parent is None or parent.kind in ("worker", "function"):
        return
    owner = session.state.runs.get(parent.run)
    item = owner.items.get(parent.item) if owner is not None else None
    if item is None or item.phases[parent.step] != CHILD or item.wait(parent.step).child != run.id:
        return
    step = item.run.flow.steps[parent.step]
    outcomes = outcomes_of(run)
    if parent.kind == "eval":
        output = b'{"result":' + flow_result(outcomes[0]) + b',"run_id":"' + run.id.encode() + b'"}'
        results.complete(session, item, parent.step, output)
    elif parent.kind == "map":
        results.complete(session, item, parent.step, _map_output(outcomes))
    else:
        _iterated(session, item, step, run, outcomes[0])


def outcomes_of(run: Run) -> list[bytes | Failure]:
    """Of each item of a run that is over."""
    results_of = run.results or {}
    return [results_of.get(index, CANCELLED) for index in range(run.total)]


def _map_output(outcomes: list[bytes | Failure]) -> bytes:
    successful = sum(isinstance(outcome, bytes) for outcome in outcomes)
    listed = b",".join(map(flow_result, outcomes))
    return b'{"results":[%b],"successful":%d,"failed":%d}' % (listed, successful, len(outcomes) - successful)


def _iterated(session: Session, item: Item, step: CompiledStep, run: Run, outcome: bytes | Failure) -> None:
    if isinstance(outcome, Failure):
        own = Failure(outcome.code, outcome.message, outcome.data)  # the wish for a retry was the inner step's, and it had it
        failure.attempt_failed(session, item, step, own, no_worker=True)
        return
    iterations = item.wait(step.index).iteration + 1
    try:
        named = _members.decode(outcome)
    except (msgspec.MsgspecError, RecursionError):
        named = {}
    if "result" in named:
        results.complete(session, item, step.index, _iterate_output(bytes(named["result"]), iterations, terminated=False))
    elif "next" not in named:
        problem = "Iteration flow output must contain either 'result' or 'next' field"
        failure.attempt_failed(session, item, step, Failure(ErrorCode.COMPONENT_FAILED, problem))
    elif iterations >= _max_iterations(session, item, step):
        results.complete(session, item, step.index, _iterate_output(bytes(named["next"]), iterations, terminated=True))
    else:
        parent = Parent(item.run.id, item.index, step.index, "iterate", iterations)
        _create(session, item, run.flow, run.flow_id, parent, [bytes(named["next"])], run.given, 0)


def _iterate_output(result: bytes, iterations: int, *, terminated: bool) -> bytes:
    return b'{"result":%b,"iterations":%d,"terminated":%b}' % (result, iterations, b"true" if terminated else b"false")


def _max_iterations(session: Session, item: Item, step: CompiledStep) -> int:
    limit = _iterate_input.decode(step.input.render(item)).max_iterations
    return session.settings.max_iterations if limit is None else limit


def _start(
    session: Session,
    item: Item,
    step: CompiledStep,
    kind: str,
    flow_id: str | None,
    document: msgspec.Raw,
    inputs: list[bytes],
    *,
    variables: bytes | None = None,
    item_limit: int = 0,
) -> None:
    text = bytes(document)
    if (flow_id is None) == (text == b"null"):
        _bad_input(session, item, step, f"/{kind}: give either the id of a stored flow or a flow, not both")
        return
    flow = session.flows.get(FlowId(flow_id)) if flow_id is not None else session.flows.by_text(text)
    if isinstance(flow, Failure):
        failure.attempt_failed(session, item, step, flow)
    elif flow is None:
        _fetch(session, item, step, flow_id, text)
    elif depth(session, item.run) >= session.settings.max_depth:
        _bad_input(
            session, item, step, f"/{kind}: sub-runs are nested deeper than {session.settings.max_depth}; a flow that evaluates itself?"
        )
    else:
        parent = Parent(item.run.id, item.index, step.index, kind)
        _create(session, item, flow, flow.id, parent, inputs, variables if variables is not None else item.run.given, item_limit)


def _create(
    session: Session,
    item: Item,
    flow: CompiledFlow,
    flow_id: FlowId,
    parent: Parent,
    inputs: list[bytes],
    variables: bytes | None,
    item_limit: int,
) -> None:
    run = item.run
    name = child_run_id(run.id, f"{item.index}/{parent.step}/{item.attempt(parent.step)}/{parent.ordinal}")
    event = RunCreated(
        name, run.tree.root, run.namespace, flow_id, inputs, run.tree.limit, item_limit,
        variables=variables, parent=parent, traceparent=run.traceparent, priority=run.priority,
    )  # fmt: skip
    session.create(event, flow)
    if run.tree.inherited:
        _take_over(session, run.tree, event)
    session.touched[run.tree.root] = run.tree
    if not inputs:
        finish.try_end_run(session, session.state.runs[name])


def _take_over(session: Session, tree: Tree, event: RunCreated) -> None:
    """The results that are kept for this sub-run, as far as it works on what that one worked on."""
    given = tree.inherited.get(event.run)
    if given is None or (given.flow, given.variables) != (event.flow, event.variables):
        return
    known = zip(given.inputs, given.seeds, strict=True)
    seeds = [taken if value == there else [] for value, (there, taken) in zip(event.inputs, known, strict=False)]
    if any(seeds):
        session.emit(RunSeeded(event.run, given.source, list(range(len(seeds))), seeds))


def _fetch(session: Session, item: Item, step: CompiledStep, flow_id: str | None, document: bytes) -> None:
    key = flow_id.encode() if flow_id is not None else document
    item.phases[step.index] = FETCHING
    waiting = session.awaiting_flow.setdefault(key, [])
    waiting.append((item, step.index))
    if len(waiting) == 1:
        session.cause(NeedFlow(key, document if flow_id is None else None))


def depth(session: Session, run: Run) -> int:
    """How deep the run is nested; 1 for a root run."""
    levels = 1
    while run.parent is not None and (owner := session.state.runs.get(run.parent.run)) is not None:
        run = owner
        levels += 1
    return levels


def _bad_input(session: Session, item: Item, step: CompiledStep, message: str) -> None:
    failure.attempt_failed(session, item, step, Failure(ErrorCode.INVALID_INPUT, message))
