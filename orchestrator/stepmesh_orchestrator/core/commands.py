"""What may be asked of the core. Values only; the runtime makes them from messages, timers and answers of stores."""

from __future__ import annotations

from dataclasses import dataclass

from stepmesh_broker.protocol.functions import FunctionTurn
from stepmesh_broker.protocol.ids import Namespace, RunId
from stepmesh_broker.protocol.letters import Letter, Waiter
from stepmesh_broker.protocol.messages import AskUpdate, Failure, Result, SendEvent, Submit, TaskRef
from stepmesh_broker.protocol.schedules import Schedule
from stepmesh_orchestrator.core.events import RunSeeded
from stepmesh_orchestrator.core.evolve.lookup import FlowLookup
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.function_events import FunctionsSeeded


@dataclass(frozen=True, slots=True)
class StartRun:
    """Create a run of `flow` (overrides applied). Answer: an `Answered` effect."""

    submit: Submit
    flow: CompiledFlow
    seeded: RunSeeded | None = None  # results of another run that it takes over
    functions: FunctionsSeeded | None = None  # and its durable functions, likewise


@dataclass(frozen=True, slots=True)
class EndTask:
    """A worker's result. Counts only when its attempt is the one that is in flight."""

    result: Result


@dataclass(frozen=True, slots=True)
class AdvanceFunction:
    """A worker took a durable function further. Answer: an `Answered` effect."""

    turn: FunctionTurn


@dataclass(frozen=True, slots=True)
class UpdateFunction:
    """Somebody asks a durable function for a change. Answer: an `Answered` effect."""

    update: AskUpdate


@dataclass(frozen=True, slots=True)
class FailAttempt:
    """The runtime gives an attempt up: its worker vanished (UNREACHABLE) or it took too long (TIMEOUT)."""

    task: TaskRef
    failure: Failure


@dataclass(frozen=True, slots=True)
class FireTimer:
    """The time that a `SetTimer` named has come. Ignored unless that very wait still stands; attempt 0: whatever of the function is due."""

    task: TaskRef


@dataclass(frozen=True, slots=True)
class CodeCame:
    """A worker has durable functions of a pool, by their paths there, in versions that no other one had. Those that wait for code go on."""

    pool: str
    paths: frozenset[str]


@dataclass(frozen=True, slots=True)
class CancelRun:
    """Stop a run and its sub-runs. Answer: an `Answered` effect."""

    run: RunId
    reason: str
    force: bool = False  # do not wait for durable functions to clean up


@dataclass(frozen=True, slots=True)
class PauseRun:
    """Let nothing new of a root run and its sub-runs start. Answer: an `Answered` effect."""

    run: RunId
    reason: str


@dataclass(frozen=True, slots=True)
class ResumeRun:
    """Let a root run go on that is paused, and functions of it that are blocked. `version`: the one that they belong to from now on, as
    people write it. `alive`: what live workers have: pool, path, version. Answer: an `Answered` effect."""

    run: RunId
    version: str = ""
    alive: frozenset[tuple[str, str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class WakeSteps:
    """End these sleeps of a run now. One that is over, or another attempt's, is left alone. Answer: an `Answered` effect."""

    run: RunId
    tasks: list[TaskRef]


@dataclass(frozen=True, slots=True)
class ResolveFlow:
    """The flow that a `NeedFlow` named by `key` is there now (look it up; what was asked for by name is `flow`), or never will be
    (`failure`)."""

    key: bytes
    failure: Failure | None = None
    flow: CompiledFlow | None = None


@dataclass(frozen=True, slots=True)
class DeleteRun:
    """Forget an ended root run. `keyed`: it and those of its sub-runs that have a run key. Answer: an `Answered` effect."""

    run: RunId
    keyed: list[RunId]


@dataclass(frozen=True, slots=True)
class RestTree:
    """Let a root run become dormant, with its sub-runs, if it has nothing to do for long. `published`: the effects of all frames up to this
    one have left."""

    root: RunId
    published: int


@dataclass(frozen=True, slots=True)
class WakeTree:
    """Bring a dormant root run back from the image that the frame `frame` holds. `flows`: those that it needs. Ignored unless it is still
    dormant, and by that very frame."""

    root: RunId
    frame: int
    image: bytes
    flows: FlowLookup


@dataclass(frozen=True, slots=True)
class ServeKeys:
    """Let through the gates of this partition's keys whoever may go now. `again`: tell also what may have been lost; `full`: of
    keys alone whose limit keeps somebody waiting. `key`: of that one alone; "": of none, but see to breakers and places."""

    again: bool = False
    full: bool = False
    key: str | None = None


@dataclass(frozen=True, slots=True)
class TakeLetter:
    """What another partition, or this one, says. Its kind says who decides: see `decide/letters.py`."""

    letter: Letter


@dataclass(frozen=True, slots=True)
class KeepEvent:
    """An event from outside, for everybody who waits at its address, now or later. Answer: an `Answered` effect."""

    event: SendEvent


@dataclass(frozen=True, slots=True)
class SettleWait:
    """What somebody outside decided for a wait, by its token, which is genuine. `value`: JSON. Answer: an `Answered` effect."""

    waiter: Waiter
    value: bytes
    rejected: bool = False


@dataclass(frozen=True, slots=True)
class AskAgain:
    """The broker came back empty, and letters may be lost with it: what waits here asks again, what is offered here is told again."""


@dataclass(frozen=True, slots=True)
class PutSchedule:
    """Make a schedule, or with `replace` change one. Its definition was checked. Answer: an `Answered` effect."""

    namespace: Namespace
    schedule: Schedule
    replace: bool


@dataclass(frozen=True, slots=True)
class DeleteSchedule:
    """Forget a schedule; its runs go on. Answer: an `Answered` effect."""

    schedule: str


@dataclass(frozen=True, slots=True)
class PauseSchedule:
    """Start nothing by its times from now on. Answer: an `Answered` effect."""

    schedule: str


@dataclass(frozen=True, slots=True)
class ResumeSchedule:
    """Go on with the times that are due from now on. Answer: an `Answered` effect."""

    schedule: str


@dataclass(frozen=True, slots=True)
class TriggerSchedule:
    """Start `run` of it now. `flow`: the one that it had when that was looked up. Answer: an `Answered` effect."""

    schedule: str
    run: RunId
    flow: CompiledFlow


@dataclass(frozen=True, slots=True)
class BackfillSchedule:
    """Start a run for each of these due times. `key` makes them others than those that its times started. Answer: an `Answered` effect."""

    schedule: str
    dues: list[int]
    key: str
    flow: CompiledFlow


@dataclass(frozen=True, slots=True)
class FireSchedule:
    """The time that a `SetScheduleTimer` named has come: see what is due."""

    schedule: str


ScheduleCommand = PutSchedule | DeleteSchedule | PauseSchedule | ResumeSchedule | TriggerSchedule | BackfillSchedule | FireSchedule
Command = (
    StartRun | EndTask | AdvanceFunction | FailAttempt | FireTimer | CancelRun | ResolveFlow | DeleteRun | RestTree | WakeTree
    | TakeLetter | KeepEvent | SettleWait | PauseRun | ResumeRun | WakeSteps | AskAgain | ScheduleCommand | ServeKeys
    | UpdateFunction | CodeCame
)  # fmt: skip
