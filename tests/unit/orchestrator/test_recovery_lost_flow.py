"""A journal whose store has lost a flow: recovery says so, with its own code, instead of going on without the run."""

from __future__ import annotations

import pytest

from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.core.events import TURN_FORMAT, RunCreated, Turn, encode_turn
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.ports import JournalError
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.projector import Projector
from stepmesh_orchestrator.runtime.recovery import recover
from stepmesh_orchestrator.store.memory import MemoryStore

P0 = Partition(0)


async def test_a_flow_that_the_store_lost_is_told_by_its_id() -> None:
    journal, store = MemoryJournal(), MemoryStore()
    await journal.open()
    await store.open()
    ownership = await journal.acquire(P0, "one")
    created = RunCreated(RunId("r"), RunId("r"), Namespace("default"), FlowId("f" * 64), [b"1"], 0, 0)
    await journal.append(P0, ownership.epoch, 1, encode_turn(Turn(TURN_FORMAT, 1_000, 0, 0, [created])))
    with pytest.raises(JournalError) as caught:
        await recover(journal, P0, FlowRegistry(store, SystemClock()), Projector(store, P0))
    assert caught.value.code == "SM-4008"
    assert "f" * 64 in caught.value.message
    assert "restore the store" in caught.value.hint
