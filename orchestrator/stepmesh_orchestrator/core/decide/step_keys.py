"""Steps with a `concurrencyKey`: an attempt asks at the home of its key before it is dispatched, and gives the permit back when it is over.

No event tells of it but those of the key's home: who asks, and who may go, follows from the state, and is asked again after a recovery.
An attempt that asks keeps a slot of its tree, as one does that waits for a place; one that is let through and may not begin,
or has no slot, gives its permit back. At a home it goes by the name that `asker` gives it.
"""

from __future__ import annotations

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.permit_letters import PermitAsk, PermitCheck, PermitGrant
from stepmesh_orchestrator.core.decide import keys
from stepmesh_orchestrator.core.flow.compiled import CompiledStep
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import QUEUED, Item


def asker(item: Item, step: int) -> RunId:
    """An attempt, among runs. No id of a run has a slash. One that is to take over what a durable function did elsewhere has its number
    only then, and its name before."""
    attempt = item.attempt(step) + (item.pasts is not None and step in item.pasts)
    return RunId(f"{item.run.id}/{item.index}/{step}/{attempt}")


def may_go(session: Session, item: Item, step: CompiledStep) -> bool:
    """Whether the attempt holds its permit; if not, it asks for it. Raises `BadKey`."""
    name = asker(item, step.index)
    if name in session.granted:
        return True
    key = key_of(item, step)
    session.asking[name] = (item, step.index, key)
    item.run.tree.promised += 1
    _ask(session, name, key, step)
    return False


def _ask(session: Session, name: RunId, key: str, step: CompiledStep, at_least: int = 0) -> None:
    here, position = session.state.partition, keys.position_for(session, key, at_least)
    letter = PermitAsk(key, name, here, [step.concurrency_limit, "queue", 0, 0, 0, 0], position)
    keys.tell(session, keys.home_of(session, key), letter)


def ask_again(session: Session) -> None:
    """What was asked may have been lost."""
    for name, (item, step, key) in session.asking.items():
        _ask(session, name, key, item.run.flow.steps[step])


def key_of(item: Item, step: CompiledStep) -> str:
    """Shared by all flows of a namespace. Raises `BadKey`."""
    shown = keys.value_of(step.concurrency_key, item, "concurrencyKey")
    return f"{item.run.namespace}//step/{shown}"


def granted(session: Session, letter: PermitGrant) -> None:
    """The attempt goes on. One that is over, or of another owner's time, gives it back."""
    waiting = session.asking.pop(letter.run, None)
    if waiting is not None:
        item, step, key = waiting
        item.run.tree.promised -= 1
        session.touched[item.run.tree.root] = item.run.tree  # an attempt whose sub-runs live takes no slot in place of the one it kept
        session.granted[letter.run] = key
        session.work.append((item, step))
    elif letter.run not in session.granted:
        keys.tell_gone(session, letter.key, letter.run)


def checked(session: Session, letter: PermitCheck) -> None:
    """The attempt asks again if it waits; one that was let through meanwhile needs nothing, and its home knows it."""
    waiting = session.asking.get(letter.run)
    if waiting is not None:
        item, step, key = waiting
        _ask(session, letter.run, key, item.run.flow.steps[step], letter.position)
    elif letter.run not in session.granted:
        keys.tell_gone(session, letter.key, letter.run)


def adopt(session: Session, item: Item, step: CompiledStep) -> None:
    """After a recovery: an attempt in flight was let through."""
    try:
        session.granted[asker(item, step.index)] = key_of(item, step)
    except keys.BadKey:  # it was let through, so this cannot be; if it is, the home finds out
        return


def leave(session: Session, item: Item, step: int) -> None:
    """The attempt is over, or never begins."""
    if item.run.flow.steps[step].concurrency_key is None:
        return
    name = asker(item, step)
    waiting = session.asking.pop(name, None)
    key = session.granted.pop(name, None) if waiting is None else waiting[2]
    if waiting is not None and item.phases[step] == QUEUED:
        item.run.tree.promised -= 1
    if key is not None:
        keys.tell_gone(session, key, name)
