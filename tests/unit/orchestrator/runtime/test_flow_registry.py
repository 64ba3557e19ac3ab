"""The flow registry: from memory or the store, once per flow, bounded, and clear about what is no flow."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.orchestrator.runtime.lab import ONE_STEP, js

from stepmesh_broker.protocol.ids import BlobId, FlowId, content_id
from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.clock import VirtualClock
from stepmesh_orchestrator.core.flow.compile import compile_stored
from stepmesh_orchestrator.core.flow.diagnostics import FlowInvalid
from stepmesh_orchestrator.ports import BlobRecord, FlowRecord
from stepmesh_orchestrator.runtime import flows as registry
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.store.memory import MemoryStore


class Counting(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def get_flow(self, flow: FlowId) -> FlowRecord | None:
        self.reads += 1
        await asyncio.sleep(0)
        return await super().get_flow(flow)


def document(number: int = 0) -> bytes:
    return js({**ONE_STEP, "name": f"flow {number}"})


async def shelf(count: int = 1) -> tuple[Counting, FlowRegistry, list[FlowId]]:
    store = Counting()
    flows = FlowRegistry(store, VirtualClock())
    ids: list[FlowId] = []
    for number in range(count):
        compiled = await flows.add(document(number), compile_stored(document(number), None))
        ids.append(compiled.id)
    return store, flows, ids


async def test_a_stored_flow_is_compiled_once() -> None:
    store, _, (flow,) = await shelf()
    flows = FlowRegistry(store, VirtualClock())
    assert flows.get(flow) is None
    first = await flows.load(flow)
    assert first is not None
    assert await flows.load(flow) is first
    assert flows.get(flow) is first
    assert store.reads == 1


async def test_those_who_ask_at_the_same_time_share_one_compilation() -> None:
    store, _, (flow,) = await shelf()
    flows = FlowRegistry(store, VirtualClock())
    found = await asyncio.gather(*(flows.load(flow) for _ in range(10)))
    assert store.reads == 1
    assert all(one is found[0] for one in found)


async def test_one_who_stops_waiting_takes_it_from_nobody_else() -> None:
    store, _, (flow,) = await shelf()
    flows = FlowRegistry(store, VirtualClock())
    first, second = asyncio.create_task(flows.load(flow)), asyncio.create_task(flows.load(flow))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is not None
    assert store.reads == 1


async def test_overrides_are_flows_of_their_own() -> None:
    _, flows, (flow,) = await shelf()
    overrides = js({"a": {"$type": "merge_patch", "value": {"input": 1}}})
    changed = await flows.load(flow, overrides)
    assert changed is not None
    assert changed is not await flows.load(flow)
    assert flows.get(flow, overrides) is changed


async def test_overrides_that_do_not_fit_are_said() -> None:
    _, flows, (flow,) = await shelf()
    with pytest.raises(FlowInvalid):
        await flows.load(flow, js({"no such step": {"input": 1}}))
    assert await flows.load(flow) is not None


async def test_an_unknown_flow_is_none_and_asked_for_again_next_time() -> None:
    store, flows, _ = await shelf()
    missing = FlowId("0" * 64)
    assert await flows.load(missing) is None
    await store.put_flow(FlowRecord(missing, "late", document(9), 0))
    assert await flows.load(missing) is not None


async def test_a_blob_may_be_a_flow_but_not_a_binary_one() -> None:
    store, flows, _ = await shelf()
    blob = BlobId(content_id(document(7)))
    await store.put_blob(BlobRecord(blob, "flow", document(7)))
    await store.put_blob(BlobRecord(BlobId("b" * 64), "binary", document(7)))
    assert await flows.load(FlowId(blob)) is not None
    assert await flows.load(FlowId("b" * 64)) is None


async def test_the_least_recently_used_flow_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "KEPT", 2)
    _, flows, ids = await shelf(2)
    flows.get(ids[0])
    third = await flows.add(document(2), compile_stored(document(2), None))
    assert [flows.get(one) is not None for one in (*ids, third.id)] == [True, False, True]


@pytest.mark.parametrize(("spare", "kept"), [(0, 2), (-1, 1)])
async def test_flows_at_hand_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch, spare: int, kept: int) -> None:
    size = len(compile_stored(document(0), None).document)
    monkeypatch.setattr(registry, "KEPT_BYTES", 2 * size + spare)
    _, flows, ids = await shelf(2)
    assert sum(flows.get(one) is not None for one in ids) == kept


async def test_a_flow_above_the_bound_is_kept_while_it_is_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "KEPT_BYTES", 1)
    _, flows, ids = await shelf(2)
    assert [flows.get(one) is not None for one in ids] == [False, True]


async def test_an_inline_flow_is_stored_and_found_by_its_text() -> None:
    store, flows, _ = await shelf()
    text = b" " + document(5)
    assert flows.by_text(text) is None
    assert await flows.add_text(text) is None
    compiled = flows.by_text(text)
    assert compiled is not None
    assert not isinstance(compiled, Failure)
    assert await store.get_flow(compiled.id) is not None


@pytest.mark.parametrize("text", [b"[]", b"{", b'{"steps":[{"id":"a"}]}', b'{"steps":"\xff"}'])
async def test_an_inline_flow_that_is_none_is_a_failure_that_is_remembered(text: bytes) -> None:
    _, flows, _ = await shelf()
    failure = await flows.add_text(text)
    assert failure is not None
    assert failure.code == ErrorCode.INVALID_INPUT
    assert "not a valid flow" in failure.message
    assert flows.by_text(text) == failure


async def test_fetching_says_why_there_is_no_flow() -> None:
    store, flows, (flow,) = await shelf()
    assert await flows.fetch(flow) is None
    unknown = await flows.fetch(FlowId("0" * 64))
    assert unknown is not None
    assert "there is no flow" in unknown.message
    await store.put_flow(FlowRecord(FlowId("1" * 64), "bad", b'{"steps":[{"id":"a"}]}', 0))
    invalid = await flows.fetch(FlowId("1" * 64))
    assert invalid is not None
    assert invalid.code == ErrorCode.INVALID_INPUT


async def put(store: MemoryStore, at_ms: int, **more: object) -> FlowId:
    text = js({**ONE_STEP, "name": "report", **more})
    flow = FlowId(content_id(text))
    await store.put_flow(FlowRecord(flow, "report", text, at_ms))
    return flow


async def test_a_flow_is_found_by_name_and_version_the_newest_first() -> None:
    store = Counting()
    flows = FlowRegistry(store, VirtualClock())
    await put(store, 1, version="3", description="older")
    newest = await put(store, 2, version="3")
    await put(store, 3, version="4")
    await put(store, 4)
    found = await flows.named("report", "3")
    assert not isinstance(found, Failure)
    assert found.id == newest


async def test_a_version_that_is_not_stored_is_told_with_those_that_are() -> None:
    store = Counting()
    flows = FlowRegistry(store, VirtualClock())
    await put(store, 1, version="3")
    await put(store, 2, version="4")
    missing, unknown = await flows.named("report", "5"), await flows.named("other", "1")
    assert isinstance(missing, Failure)
    assert isinstance(unknown, Failure)
    assert missing.code == ErrorCode.INVALID_INPUT
    assert missing.message.startswith(
        "SM-1042 there is no flow 'report' of version '5'; versions of 'report' that are stored: 4, 3 (store it"
    )
    assert "; no flow 'other' that is stored has one (store it" in unknown.message


@pytest.mark.parametrize(("newer", "is_found"), [(registry.MOST_NAMED - 1, True), (registry.MOST_NAMED, False)])
async def test_so_many_flows_of_a_name_are_looked_through(newer: int, is_found: bool) -> None:
    store = Counting()
    flows = FlowRegistry(store, VirtualClock())
    await put(store, 1, version="1")
    for number in range(newer):
        await put(store, 2 + number, version=f"v{number}")
    assert isinstance(await flows.named("report", "1"), Failure) is not is_found
