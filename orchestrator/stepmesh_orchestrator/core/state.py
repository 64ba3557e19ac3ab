"""A partition's runs as values. Only `evolve` writes what events say; what is derived from it is marked so.

The unit of size is a step of a live item: one byte of phase, one slot for its outcome, two times, one position. 100,000 live ten-step
runs must fit in memory, so nothing here is per step but these. Structs without garbage collection tracking: the only
cycle (item → run → items) is cut when the item ends.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Mapping
from heapq import heappush

import msgspec

from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId
from stepmesh_broker.protocol.messages import Failure
from stepmesh_orchestrator.core.addresses import Addresses
from stepmesh_orchestrator.core.dormant import Dormant
from stepmesh_orchestrator.core.events import PER_FRAME, Parent
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.flow.plan import Outcome
from stepmesh_orchestrator.core.functions import Function, Unheard
from stepmesh_orchestrator.core.gates import Gate, Permits
from stepmesh_orchestrator.core.schedules import Schedules
from stepmesh_orchestrator.core.seeds import FunctionSeed, Seed, SeededRun

# Phases of a step (and, in the last place of `Item.phases`, of the item's output).
IDLE = 0  # not needed so far
WAITING = 1  # derived: needed, and something it needs has no outcome
QUEUED = 2  # derived: nothing blocks it; about to begin, or waiting for a slot
FETCHING = 3  # derived: waiting for the flow of its sub-run
RUNNING = 4  # an attempt is in flight and holds a slot
RETRYING = 5  # waits for its next attempt; no slot
SLEEPING = 6  # waits for a durable timer; no slot
CHILD = 7  # waits for a sub-run; no slot
DONE = 8  # has an outcome
FALLBACK = 9  # failed; its default waits for the steps that it needs; no slot
PARKED = 10  # a durable function that waits for records; no slot
AWAITING = 11  # waits for somebody outside: an event, a decision; no slot

PHASE_NAMES = (
    "not_needed", "waiting", "queued", "fetching", "running", "retrying", "sleeping", "child", "done", "fallback", "parked", "awaiting",
)  # fmt: skip
DERIVED = frozenset((WAITING, QUEUED, FETCHING))
DELETED = "deleted"
"""What `State.finished` holds for a run that was deleted, in place of its status."""


class Wait(msgspec.Struct, array_like=True, gc=False):
    """What a step carries beyond its phase: attempts so far, used budgets, when it goes on, with what.

    A running step with `sub_runs` holds no slot of its tree: its component waits for them, and they need slots.
    """

    attempt: int = 1
    transport_used: int = 0
    component_used: int = 0
    due_ms: int = 0
    output: bytes | None = None  # of a sleep; of a step that awaits something: what (see `decide/waits.py`)
    child: RunId | None = None
    iteration: int = 0
    last_failure: Failure | None = None
    sub_runs: int = 0  # live ones that its component started


class Tree(msgspec.Struct, gc=False, eq=False):
    """A root run and its sub-runs: they share one limit of tasks in flight. Lives as long as any of its runs."""

    root: RunId
    limit: int
    in_flight: int = 0
    live: int = 0  # runs
    ended: dict[RunId, str] = {}  # sub-runs that components started and that ended, while the tree lives: run → status
    queue: deque[tuple[Item, int]] = msgspec.field(default_factory=lambda: deque())  # derived: ready, no slot
    cancelling: dict[RunId, str] = {}  # runs that wait for their functions to end, and why they are cancelled
    pending: dict[RunId, Run] = {}  # runs with items not yet started
    roomy: list[tuple[int, RunId]] = []  # derived, a heap: those of them that may have room for one more item, oldest first
    paused_ms: int = 0  # since when nothing new of it starts; 0 = it goes on
    inherited: dict[RunId, SeededRun] = {}  # results of another tree, kept for sub-runs that may be created
    promised: int = 0  # derived: targets that wait for a place of their pool, each with a slot kept for it
    is_held: bool = False  # derived: its root run waits at a gate


class Run(msgspec.Struct, gc=False, eq=False):
    """A live run. `items` holds the active ones only; `inputs[i]` is dropped when item i starts."""

    id: RunId
    namespace: Namespace
    flow: CompiledFlow
    flow_id: FlowId
    tree: Tree
    inputs: list[bytes | None]
    item_limit: int
    overrides: bytes | None
    given: bytes | None  # variables as given, JSON object
    variables: Mapping[str, bytes]
    run_key: str | None
    parent: Parent | None
    traceparent: str
    tags: dict[str, str] | None
    created_ms: int
    created_sequence: int
    next_item: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    stopping: bool = False
    items: dict[int, Item] = {}
    children: list[RunId] | None = None  # live sub-runs
    results: dict[int, bytes | Failure] | None = None  # of ended items, kept when a core step waits for them
    created_at: int = 0  # position of the event that created it
    depth: int = 0  # below the root
    is_roomy: bool = False  # derived: it is among its tree's `roomy`
    priority: int = 0
    gates: list[Gate] | None = None  # that it passes before it begins
    gates_open: int = 0
    taken: dict[str, list[int]] | None = None  # address → positions of the events that the run took there
    seeds: dict[int, list[Seed]] | None = None  # results of another run, by item that has not started
    pasts: dict[int, list[FunctionSeed]] | None = None  # of durable functions there, likewise

    @property
    def total(self) -> int:
        """Items of the run."""
        return len(self.inputs)

    @property
    def ended_items(self) -> int:
        """Items that ended, in whatever way."""
        return self.completed + self.failed + self.cancelled


class Item(msgspec.Struct, gc=False, eq=False):
    """An active item: one input's execution. It is the `Scope` of its flow's expressions."""

    run: Run
    index: int
    input: bytes
    outcomes: list[Outcome | None]
    phases: bytearray  # one per step, then one for the output
    times: array[int]  # started, finished of each step: ms since 1970, 0 = not yet
    positions: array[int]  # of each step's last event; 0 = none
    waits: dict[int, Wait] | None = None
    remaining: dict[int, int] | None = None  # derived: static needs still without outcome, where more than one
    output: Outcome | None = None
    open: bool = True
    functions: dict[int, Function] | None = None  # of steps whose components proved to be durable functions
    pasts: dict[int, FunctionSeed] | None = None  # what those take over from another run that have not begun
    renewals: dict[int, int] | None = None  # derived: when (ms) a durable function asks again for its events, whichever they are
    unheard: dict[int, Unheard] | None = None  # derived: of durable functions whose workers have not heard of all results

    @property
    def variables(self) -> Mapping[str, bytes]:
        """The run's."""
        return self.run.variables

    @property
    def error(self) -> bytes | None:
        """No `$error` outside `onError`."""
        return None

    def attempt(self, step: int) -> int:
        """The number of the attempt that runs or comes next, from 1."""
        waits = self.waits
        return 1 if waits is None or step not in waits else waits[step].attempt

    def holds_slot(self, step: int) -> bool:
        """Whether the step takes one of the tasks that its tree may have in flight."""
        if self.phases[step] != RUNNING:
            return False
        waits = self.waits
        return waits is None or step not in waits or not waits[step].sub_runs

    def function(self, step: int) -> Function | None:
        """The history of a step that proved to be a durable function and is not over."""
        functions = self.functions
        return None if functions is None or self.phases[step] in (DONE, FALLBACK) else functions.get(step)

    def wait(self, step: int) -> Wait:
        """The step's record, made if there is none."""
        if self.waits is None:
            self.waits = {}
        record = self.waits.get(step)
        if record is None:
            record = self.waits[step] = Wait()
        return record


def may_have_room(run: Run) -> None:
    """A run with items not yet started is to be looked at when its tree has a slot."""
    if not run.is_roomy:
        run.is_roomy = True
        heappush(run.tree.roomy, (run.created_at, run.id))


class State:
    """All live runs of a partition, and the memory that makes submissions idempotent. Dormant runs are live, and not among `runs`.
    Its runs end with it: whoever looks at one holds its state."""

    __slots__ = (
        "_sequence", "addresses", "at", "confirmed", "dormant", "finished", "inbox", "keys", "partition", "permits", "runs", "schedules",
        "trees",
    )  # fmt: skip

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.runs: dict[RunId, Run] = {}
        self.trees: dict[RunId, Tree] = {}
        self.dormant = Dormant()
        self.permits = Permits()
        self.addresses = Addresses()
        self.schedules = Schedules()
        self.keys: dict[str, RunId] = {}  # namespace/run key → run, live or lately ended
        # ended root runs, and sub-runs with a key, oldest first: when (ms), status, namespace/key. A plain dict would look for its
        # oldest entry among all that were removed before it.
        self.finished: OrderedDict[RunId, tuple[int, str, str | None]] = OrderedDict()
        self.inbox = 0
        self.confirmed = 0
        self.at: int  # position of the event that was applied last, or just before the next frame
        self.sequence = 0

    @property
    def sequence(self) -> int:
        """Of the last whole frame that was applied."""
        return self._sequence

    @sequence.setter
    def sequence(self, sequence: int) -> None:
        self._sequence = sequence
        self.at = (sequence + 1) * PER_FRAME - 1

    def release(self) -> None:
        """Let go of all live runs: their cycles are cut here, for no collector looks for them."""
        for tree in self.trees.values():
            tree.queue.clear()
            tree.pending.clear()
            tree.roomy.clear()
        for run in self.runs.values():
            run.items.clear()
        self.runs.clear()
        self.trees.clear()
        self.dormant = Dormant()

    def __del__(self) -> None:
        """Views of dormant runs are made for one answer, and there are many of them."""
        self.release()


def new_item(run: Run, index: int) -> Item:
    """An item with nothing done."""
    steps = len(run.flow.steps)
    times, positions = array("q", bytes(16 * steps)), array("q", bytes(8 * steps))
    return Item(run, index, run.inputs[index] or b"null", [None] * steps, bytearray(steps + 1), times, positions)
