"""Which runs a command, or a turn, is about. Pure."""

from __future__ import annotations

from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core.commands import (
    AdvanceFunction,
    AskAgain,
    CancelRun,
    CodeCame,
    Command,
    DeleteRun,
    EndTask,
    KeepEvent,
    PauseRun,
    ResolveFlow,
    RestTree,
    ResumeRun,
    ScheduleCommand,
    ServeKeys,
    SettleWait,
    StartRun,
    TakeLetter,
    UpdateFunction,
    WakeSteps,
    WakeTree,
)
from stepmesh_orchestrator.core.decide.letters import addressee
from stepmesh_orchestrator.core.rows import RunRow
from stepmesh_orchestrator.core.session import Session


def moved_roots(session: Session) -> set[RunId]:
    """The trees that this turn's events are about. Runs that ended are out of the state, but have a row."""
    runs = session.state.runs
    roots = {row.root for row in session.rows if isinstance(row, RunRow)}
    roots.update(run.tree.root for event in session.events if (run := runs.get(event.run)) is not None)
    return roots


def run_of(command: Command) -> RunId | None:
    """The run that a command is about."""
    if isinstance(command, StartRun):
        return command.submit.run
    if isinstance(command, EndTask):
        return command.result.run
    if isinstance(command, CancelRun | DeleteRun | PauseRun | ResumeRun | WakeSteps):
        return command.run
    if isinstance(command, RestTree | WakeTree):
        return command.root
    if isinstance(command, SettleWait):
        return command.waiter.run
    if isinstance(command, TakeLetter):
        return addressee(command.letter)
    if isinstance(command, ResolveFlow | KeepEvent | AskAgain | ScheduleCommand | ServeKeys | CodeCame):
        return None
    if isinstance(command, AdvanceFunction):
        return command.turn.task.run
    if isinstance(command, UpdateFunction):
        return command.update.run
    return command.task.run
