"""Submissions: once per run id and run key; what is wrong with them is said before anything exists."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.messages import Accepted, ParentRef, Refused, Submit
from stepmesh_broker.protocol.submission import keyed_run
from stepmesh_orchestrator.core.commands import StartRun
from stepmesh_orchestrator.core.decide import finish, gates, places, results, subruns
from stepmesh_orchestrator.core.effects import Answered
from stepmesh_orchestrator.core.events import Parent, RunCreated
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.flow.limits import PAYLOAD_DEPTH
from stepmesh_orchestrator.core.session import EngineSettings, Session
from stepmesh_orchestrator.core.state import DELETED, RUNNING, Run

MAX_PRIORITY = 100
"""Of a run, and its negative: lower ones are refused as well."""
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def start_run(session: Session, command: StartRun) -> None:
    """Create the run, or answer why not; a run that exists already is accepted again."""
    submit, owner = command.submit, None if command.submit.parent is None else session.state.runs.get(command.submit.parent.run)
    if owner is not None and submit.namespace != owner.namespace:
        submit = msgspec.structs.replace(submit, namespace=owner.namespace)
    known = _known(session, submit)
    if known is not None:
        session.cause(Answered(known))
        return
    refusal = refusal_of(session.settings, submit, command.flow) or _parent_refusal(session, submit)
    if refusal is not None:
        session.cause(Answered(refusal))
        return
    parent = submit.parent
    limit = session.settings.default_max_concurrency if submit.max_concurrency is None else submit.max_concurrency
    inherited = owner.given if owner is not None and submit.variables is None else submit.variables
    event = RunCreated(
        submit.run, submit.run if owner is None else owner.tree.root, submit.namespace, submit.flow, submit.inputs, limit,
        limit if owner is not None else 0, submit.overrides, inherited, submit.run_key,
        None if parent is None else Parent(parent.run, parent.item, parent.step, "worker"), submit.traceparent, submit.tags,
        submit.priority if owner is None else owner.priority,
    )  # fmt: skip
    if event.parent is None:
        session.create(event, command.flow)
    else:
        places.beside(session, event.parent, lambda: session.create(event, command.flow))
    if command.seeded is not None:
        session.emit(command.seeded)
    if command.functions is not None:
        session.emit(command.functions)
    run = session.state.runs[submit.run]
    if command.flow.gates:
        gates.hold(session, run, gates.gates_of(command.flow, submit))
    session.touched[run.tree.root] = run.tree
    session.cause(Answered(Accepted(submit.run)))
    finish.try_end_run(session, run)


def _known(session: Session, submit: Submit) -> Accepted | None:
    state = session.state
    if submit.run in state.runs or submit.run in state.dormant or (submit.run in state.finished and not _is_free(session, submit)):
        return Accepted(submit.run, existing=True)
    if submit.parent is not None and (tree := state.trees.get(submit.parent.root)) is not None and submit.run in tree.ended:
        return Accepted(submit.run, existing=True)
    if submit.run_key is not None and (first := state.keys.get(f"{submit.namespace}/{submit.run_key}")) is not None:
        return Accepted(first, existing=True)
    return None


def _is_free(session: Session, submit: Submit) -> bool:
    """Whether its run was deleted, and its id is that of its key: the key is free then, and has no other id."""
    key = submit.run_key
    if key is None or submit.parent is not None or session.state.finished[submit.run][1] != DELETED:
        return False
    return submit.run == keyed_run(submit.namespace, key, session.partitions)


def refusal_of(settings: EngineSettings, submit: Submit, flow: CompiledFlow) -> Refused | None:
    """What is wrong with a submission, whatever the state is; None when nothing is."""
    if len(submit.inputs) > settings.max_items:
        return Refused(
            "SM-5002",
            f"{len(submit.inputs)} inputs; a run takes {settings.max_items} at most",
            "split the batch, or raise limits.items",
        )
    if submit.max_concurrency is not None and submit.max_concurrency < 0:
        return Refused("SM-5002", f"max_concurrency is {submit.max_concurrency}", "give 0 for no limit, or a positive number")
    if abs(submit.priority) > MAX_PRIORITY:
        return Refused("SM-5002", f"priority is {submit.priority}", f"give one from -{MAX_PRIORITY} to {MAX_PRIORITY}")
    for index, value in enumerate(submit.inputs):
        if results.checked_json(value) is None:
            return Refused(
                "SM-5001", f"input {index} is not valid JSON, or nested deeper than {PAYLOAD_DEPTH}", "send one JSON text per item"
            )
        if flow.input_schema is not None and (violations := flow.input_schema.violations(value)):
            return _invalid(f"input {index} does not match the flow's input schema", violations)
    return _variables_refusal(settings, submit, flow) or (gates.refusal(flow, submit) if flow.gates or flow.idempotency else None)


def _variables_refusal(settings: EngineSettings, submit: Submit, flow: CompiledFlow) -> Refused | None:
    given: dict[str, msgspec.Raw] = {}
    if submit.variables is not None:
        if results.checked_json(submit.variables) is None:
            return Refused("SM-5001", f"variables are not valid JSON, or nested deeper than {PAYLOAD_DEPTH}", "send a JSON object")
        try:
            given = _members.decode(submit.variables)
        except msgspec.MsgspecError:
            return Refused("SM-5001", "variables are not a JSON object", 'send {"name": value, …}')
    secret = [name for name in given if name in flow.variables and flow.variables[name].secret]
    if secret and not settings.secrets_may_rest:
        return Refused(
            "SM-5011", f"variables {', '.join(map(repr, secret))} are secret, and this deployment's journal would keep them on disk",
            "give workers secrets through their environment, or run with --journal memory",
        )  # fmt: skip
    missing = [name for name, variable in flow.variables.items() if variable.required and variable.default is None and name not in given]
    if missing and submit.parent is None:
        return _invalid("variables are missing", [f"$.{name}: required" for name in missing])
    if (
        flow.variables_schema is not None
        and submit.variables is not None
        and (violations := flow.variables_schema.violations(submit.variables))
    ):
        return _invalid("variables do not match the flow's schema", violations)
    return None


def _parent_refusal(session: Session, submit: Submit) -> Refused | None:
    parent = submit.parent
    if parent is None:
        return None
    run = session.state.runs.get(parent.run)
    if run is None or run.tree.root != parent.root or not _is_running(run, parent):
        return Refused("SM-5007", f"step {parent.step} of run {parent.run} is not running", "a sub-run is started by a running component")
    if subruns.depth(session, run) >= session.settings.max_depth:
        deepest = f"sub-runs are nested deeper than {session.settings.max_depth}"
        return Refused("SM-5002", deepest, "does a component start its own flow again without an end?")
    return None


def _is_running(run: Run, parent: ParentRef) -> bool:
    item = run.items.get(parent.item)
    return item is not None and not run.stopping and 0 <= parent.step < len(item.outcomes) and item.phases[parent.step] == RUNNING


def _invalid(what: str, violations: list[str]) -> Refused:
    return Refused("SM-5001", f"INVALID_INPUT: {what}: " + "; ".join(violations), data=msgspec.json.encode({"violations": violations}))
