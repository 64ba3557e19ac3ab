"""The oracle O of reliability.md over a journal and the workers' ledger. Pure reading; the deployment must be down.

Every journal is read from its first frame, on any backend. One that was trimmed refuses that: no test runs for as long as frames are kept.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.core import events as ev
from stepmesh_orchestrator.core.events import decode_turn
from stepmesh_orchestrator.core.snapshot import state_hash
from stepmesh_orchestrator.journal.sqlite import SqliteJournal
from stepmesh_orchestrator.ports import Journal, Store
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.projector import Projector
from stepmesh_orchestrator.runtime.recovery import recover
from stepmesh_orchestrator.store.memory import MemoryStore
from stepmesh_orchestrator.store.sqlite import SqliteStore

OUTCOMES = (ev.StepSucceeded, ev.StepFailed, ev.StepDefaulted, ev.StepSkipped)
CLOCK_SLACK_MS = 300
"""An execution may begin this much after the turn that recorded the step's outcome was decided: the worker's permission to begin was
on its way then. (A turn's time is taken before its frame is durable.)"""


@dataclass
class Story:
    """What a journal tells."""

    created: Counter[str] = field(default_factory=Counter)
    ended: dict[str, str] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    items: Counter[tuple[str, int]] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    outcome_ms: dict[tuple[str, int, int], int] = field(default_factory=dict)
    flows: dict[str, str] = field(default_factory=dict)
    frames: int = 0
    hashes: list[str] = field(default_factory=list)
    step_ids: dict[str, list[str]] = field(default_factory=dict)  # by run


async def read_story(data: Path) -> Story:
    """What the journal and the store of a data folder tell."""
    return await told(SqliteJournal(data / "journal.db"), SqliteStore(data / "store.db"))


async def told(journal: Journal, store: Store) -> Story:
    """Read every frame of every partition, and replay each twice. Both are opened and closed here."""
    story = Story()
    await journal.open()
    await store.open()
    try:
        for partition in await journal.partitions():
            await _read(journal, partition, story)
            for _ in range(2):
                flows = FlowRegistry(store, SystemClock())
                story.hashes.append(state_hash((await recover(journal, partition, flows, Projector(MemoryStore(), partition))).state))
        flows = FlowRegistry(store, SystemClock())
        for run, flow in story.flows.items():
            compiled = await flows.load(flow)  # type: ignore[arg-type]  # a FlowId as text
            assert compiled is not None
            story.step_ids[run] = [step.id for step in compiled.steps]
    finally:
        await store.close()
        await journal.close()
    return story


async def _read(journal: Journal, partition: Partition, story: Story) -> None:
    async for frame in journal.read(partition):
        story.frames += 1
        turn = decode_turn(frame.payload)
        for event in turn.events:
            if isinstance(event, OUTCOMES):
                key = (event.run, event.item, event.step)
                story.outcomes[key] += 1
                story.outcome_ms[key] = turn.at_ms
            elif isinstance(event, ev.ItemEnded):
                story.items[event.run, event.item] += 1
            elif isinstance(event, ev.RunCreated):
                story.created[event.run] += 1
                story.flows[event.run] = event.flow
            elif isinstance(event, ev.RunEnded):
                story.ends[event.run] += 1
                story.ended[event.run] = event.status


def check(story: Story, accepted: set[RunId], executions: list[tuple[str, str, int, str, int, int, int]]) -> None:
    """Raises `AssertionError` for the first promise that was broken."""
    check_recorded(story, accepted)
    again = executed_again(story, executions)
    assert not again, f"executed after the outcome was recorded: {again}"


def check_recorded(story: Story, accepted: set[RunId]) -> None:
    """`check`, without a look at what workers did: their code may run more than once, and on Kafka it may after its result was recorded."""
    assert accepted <= set(story.created), "every accepted run is in the journal"
    assert set(story.ended) == set(story.created), f"every run ended: {set(story.created) - set(story.ended)}"
    for counted in (story.created, story.ends, story.items, story.outcomes):
        assert all(count == 1 for count in counted.values()), "everything is recorded once"
    assert story.hashes[::2] == story.hashes[1::2], "two replays give the same state"


def executed_again(story: Story, executions: list[tuple[str, str, int, str, int, int, int]]) -> list[str]:
    """Executions that began although the journal had the step's outcome."""
    found: list[str] = []
    for kind, run, item, step_id, attempt, pid, at_ms in executions:
        if kind != "start" or run not in story.step_ids:
            continue
        recorded = story.outcome_ms.get((run, item, story.step_ids[run].index(step_id)))
        if recorded is not None and at_ms > recorded + CLOCK_SLACK_MS:
            found.append(f"{run}/{item}/{step_id} attempt {attempt} by {pid}: {at_ms - recorded} ms late")
    return found
