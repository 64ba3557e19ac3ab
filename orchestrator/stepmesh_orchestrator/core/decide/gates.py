"""A run before its gates: it is held, asks at the home of one key after the other, and begins when all have let it through.

A root run only; sub-runs are part of it. What was lost on the way is asked again after a recovery. A run that has ended gives back
what it held.
"""

from __future__ import annotations

from collections.abc import Mapping

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.messages import Refused, Submit
from stepmesh_broker.protocol.permit_letters import PermitAsk, PermitCheck, PermitGrant, PermitRevoke
from stepmesh_orchestrator.core.decide import keys, pausing, step_keys
from stepmesh_orchestrator.core.evolve.runs import effective_variables
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow, GatePlan
from stepmesh_orchestrator.core.flow.gates import IDEMPOTENCY
from stepmesh_orchestrator.core.flow.plan import Outcome
from stepmesh_orchestrator.core.gate_events import RunHeld, RunReleased
from stepmesh_orchestrator.core.gates import Gate
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Run


class _Scope:
    """What a key may see: the first input, and the variables."""

    def __init__(self, input: bytes, variables: Mapping[str, bytes]) -> None:
        self.input = input
        self.variables = variables
        self.outcomes: list[Outcome | None] = []
        self.error: bytes | None = None


def gates_of(flow: CompiledFlow, submit: Submit) -> list[Gate]:
    """Those of a submission. Raises `BadKey`."""
    if not flow.gates or submit.parent is not None:
        return []
    scope = _scope(flow, submit)
    return [_gate(plan, flow, submit.namespace, scope) for plan in flow.gates]


def run_key_of(flow: CompiledFlow, submit: Submit) -> str | None:
    """The run key that the flow makes of a submission; None when it makes none. Raises `BadKey`."""
    if flow.idempotency is None or submit.run_key is not None or submit.parent is not None:
        return None
    return f"flow:{flow.name or flow.id}/{keys.value_of(flow.idempotency, _scope(flow, submit), IDEMPOTENCY)}"


def _scope(flow: CompiledFlow, submit: Submit) -> _Scope:
    return _Scope(submit.inputs[0] if submit.inputs else b"null", effective_variables(flow, submit.variables))


def _gate(plan: GatePlan, flow: CompiledFlow, namespace: Namespace, scope: _Scope) -> Gate:
    shown = keys.value_of(plan.key, scope, plan.kind)
    return Gate(f"{namespace}/{flow.name or flow.id}/{plan.kind}/{shown}", shown, plan.rule)


def refusal(flow: CompiledFlow, submit: Submit) -> Refused | None:
    """Why a submission has no key; None when it has all that its flow asks for."""
    try:
        gates_of(flow, submit)
        run_key_of(flow, submit)
    except keys.BadKey as problem:
        return Refused("SM-5260", str(problem), "give the input, or the variable, that the flow's key is made of")
    return None


def hold(session: Session, run: Run, gates: list[Gate]) -> None:
    """The run was created just now."""
    if gates:
        session.emit(RunHeld(run.id, gates))
        ask(session, run)


def ask(session: Session, run: Run) -> None:
    """At the gate that it stands at; also again, after a recovery."""
    if run.gates is not None and run.gates_open < len(run.gates):
        _ask_at(session, run, run.gates[run.gates_open])


def _ask_at(session: Session, run: Run, gate: Gate, at_least: int = 0) -> None:
    rule, state = gate.rule, session.state
    said: list[int | str] = [rule.limit, rule.policy, rule.interval_us, rule.burst, rule.period_ms, rule.max_ms]
    position = keys.position_for(session, gate.key, at_least)
    keys.tell(session, keys.home_of(session, gate.key), PermitAsk(gate.key, run.id, state.partition, said, position))


def granted(session: Session, letter: PermitGrant) -> None:
    """One gate is open; the run goes on to the next."""
    if "/" in letter.run:
        step_keys.granted(session, letter)
        return
    run = session.state.runs.get(letter.run)
    if run is None:
        _give_back_unknown(session, letter.key, letter)
    elif run.gates is not None and run.gates_open < len(run.gates) and run.gates[run.gates_open].key == letter.key:
        session.emit(RunReleased(run.id, letter.key))
        session.touched[run.tree.root] = run.tree
        ask(session, run)


def revoked(session: Session, letter: PermitRevoke) -> None:
    """The run is to end, its durable functions after they have cleaned up."""
    run = session.state.runs.get(letter.run)
    if run is None:
        _give_back_unknown(session, letter.key, letter)
    else:
        pausing.ask_to_end(session, run, letter.reason)


def checked(session: Session, letter: PermitCheck) -> None:
    """What the run asked came late, or in a copy."""
    if "/" in letter.run:
        step_keys.checked(session, letter)
        return
    run = session.state.runs.get(letter.run)
    if run is None:
        _give_back_unknown(session, letter.key, letter)
        return
    for gate in (run.gates or [])[: run.gates_open + 1]:
        if gate.key == letter.key:
            _ask_at(session, run, gate, letter.position)


def _give_back_unknown(session: Session, key: str, letter: PermitGrant | PermitRevoke | PermitCheck) -> None:
    """A dormant run is live: whoever brings it back tells it again."""
    if letter.run not in session.state.dormant:
        keys.tell_gone(session, key, letter.run)
