"""The api: every request, every refusal, and answers that fit into a message."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import ONE_STEP, W1, Lab, js, run_id, until, virtual

from stepmesh_broker.memory import MemoryBus
from stepmesh_broker.protocol import api, subjects
from stepmesh_broker.protocol.codec import decode_api_answer, encode
from stepmesh_broker.protocol.ids import BlobId, FlowId, Pool, content_id
from stepmesh_broker.protocol.messages import Cancel, ComponentInfo, Hello, Refused
from stepmesh_broker.protocol.pools import ListPools, Pools
from stepmesh_orchestrator.runtime import run_requests as served

UNKNOWN = run_id(999)


async def raw(lab: Lab, data: bytes) -> Any:
    return decode_api_answer(await lab.client.request(subjects.api(lab.namespace), data, 5))


async def finished(lab: Lab, *inputs: Any, output: Any = "done") -> Any:
    """A run that is over."""
    run = await lab.submit(ONE_STEP, *inputs, max_concurrency=0)
    left = max(1, len(inputs))
    while left:
        tasks = await lab.take()
        for task in tasks:
            await lab.finish(task, output=output)
        left -= len(tasks)
    await lab.ended(run)
    return run


@virtual
async def test_info_says_what_this_deployment_is() -> None:
    lab = await Lab(partitions=3).start()
    info = await lab.ask(api.GetInfo(), api.Info)
    assert (info.namespace, info.partitions, info.durability) == ("default", 3, "process")
    assert info.survives == lab.journal.survives
    assert info.limits["message_bytes"] == lab.bus.max_message_bytes
    assert info.journal == lab.shard.ownership.journal_id
    await lab.stop()


# --- flows and blobs ---


@virtual
async def test_a_flow_is_stored_once_and_given_back() -> None:
    lab = await Lab().start()
    first = await lab.ask(api.StoreFlow(js(ONE_STEP)), api.FlowStored)
    again = await lab.ask(api.StoreFlow(json.dumps(ONE_STEP, indent=2).encode()), api.FlowStored)
    assert (first.stored, again.flow) == (True, first.flow)
    data = await lab.ask(api.GetFlow(first.flow), api.FlowData)
    assert json.loads(data.document) == ONE_STEP
    assert (await lab.ask(api.GetBlob(BlobId(first.flow)), api.BlobData)).kind == "flow"
    await lab.stop()


@virtual
async def test_a_dry_run_stores_nothing() -> None:
    lab = await Lab().start()
    checked = await lab.ask(api.StoreFlow(js(ONE_STEP), dry_run=True), api.FlowStored)
    assert not checked.stored
    assert (await lab.ask(api.GetFlow(checked.flow), Refused)).code == "SM-5004"
    await lab.stop()


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b'{"steps":[{"id":"a"}]}', b'{"steps":"\xff"}'])
def test_an_invalid_flow_is_answered_with_its_findings(document: bytes) -> None:
    @virtual
    async def check() -> None:
        lab = await Lab().start()
        answer = await lab.ask(api.StoreFlow(document), api.FlowStored)
        assert not answer.stored
        findings = json.loads(answer.diagnostics)
        assert findings
        assert all(found["code"].startswith("SM-2") and found["level"] in ("fatal", "error", "warning") for found in findings)
        await lab.stop()

    check()


async def test_a_large_flow_is_compiled_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    aside: list[int] = []

    async def to_thread(work: Any, data: bytes) -> Any:
        aside.append(len(data))
        return work(data)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    lab = await Lab().start()
    await lab.ask(api.StoreFlow(js(ONE_STEP)), api.FlowStored)
    assert aside == []
    large = js({**ONE_STEP, "description": "x" * 100_000})
    assert (await lab.ask(api.StoreFlow(large), api.FlowStored)).stored
    assert aside == [len(large)]
    await lab.stop()


@virtual
async def test_json_blobs_are_kept_compact_and_binary_ones_as_they_are() -> None:
    lab = await Lab().start()
    stored = await lab.ask(api.PutBlob(b' { "a" : 1 } ', filename="a.json"), api.BlobStored)
    assert stored.blob == content_id(b'{"a":1}')
    blob = await lab.ask(api.GetBlob(stored.blob), api.BlobData)
    assert (blob.data, blob.kind, blob.filename) == (b'{"a":1}', "data", "a.json")
    binary = await lab.ask(api.PutBlob(b"\xff {", "binary", None, "x/y"), api.BlobStored)
    assert (await lab.ask(api.GetBlob(binary.blob), api.BlobData)).data == b"\xff {"
    await lab.stop()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (api.PutBlob(b"1", "picture"), "SM-5009"),
        (api.PutBlob(b"{", "data"), "SM-5009"),
        (api.GetBlob(BlobId("0" * 64)), "SM-5005"),
        (api.GetFlow(FlowId("0" * 64)), "SM-5004"),
        (api.GetRun(UNKNOWN), "SM-5003"),
        (api.GetRun(UNKNOWN, 1_000), "SM-5003"),
        (api.GetSteps(UNKNOWN), "SM-5003"),
        (api.GetEvents(UNKNOWN), "SM-5003"),
        (api.Explain(UNKNOWN), "SM-5003"),
    ],
)
def test_what_is_not_there_is_refused_with_a_code_and_a_hint(request_: api.ApiRequest, code: str) -> None:
    @virtual
    async def check() -> None:
        lab = await Lab().start()
        refused = await lab.ask(request_, Refused)
        assert refused.code == code
        assert refused.hint
        await lab.stop()

    check()


@pytest.mark.parametrize("data", [b"", b"\xc1", b"nonsense", encode(["drop_tables"]), encode(["get_run"]), encode(["get_run", 7])])
def test_what_is_no_request_is_refused(data: bytes) -> None:
    @virtual
    async def check() -> None:
        lab = await Lab().start()
        assert (await raw(lab, data)).code == "SM-3003"
        await lab.stop()

    check()


@virtual
async def test_a_defect_is_an_answer_too(caplog: pytest.LogCaptureFixture) -> None:
    lab = await Lab().start()

    async def broken(_: object) -> Any:
        raise ZeroDivisionError

    lab.store.get_blob = broken  # type: ignore[method-assign]
    assert (await lab.ask(api.GetBlob(BlobId("0" * 64)), Refused)).code == "SM-5900"
    assert "ZeroDivisionError" in caplog.text
    await lab.stop()


# --- runs ---


@virtual
async def test_who_waits_for_a_run_is_answered_when_it_ends_with_its_results() -> None:
    lab = await Lab().start()
    run = await lab.submit()
    waiting = asyncio.create_task(lab.ask(api.GetRun(run, 60_000, True), api.RunInfo))
    (task,) = await lab.take()
    await asyncio.sleep(5)
    assert not waiting.done()
    await lab.finish(task)
    info = await asyncio.wait_for(waiting, 1)
    assert (info.summary.status, info.summary.completed, len(info.results)) == ("completed", 1, 1)
    await lab.stop()


@pytest.mark.parametrize(("wait_ms", "took"), [(0, 0.0), (-5, 0.0), (2_000, 2.0), (10**9, 60.0)])
def test_waits_are_bounded(wait_ms: int, took: float) -> None:
    @virtual
    async def check() -> None:
        lab = await Lab().start()
        run = await lab.submit()
        clock = asyncio.get_running_loop().time
        began = clock()
        assert (await lab.ask(api.GetRun(run, wait_ms), api.RunInfo)).summary.status == "running"
        assert clock() - began == pytest.approx(took, abs=0.05)
        await lab.stop()

    check()


@virtual
async def test_a_run_is_never_unknown_or_stale_while_its_end_is_on_the_way_to_the_journal() -> None:
    lab = await Lab().start()
    run = await lab.submit()
    (task,) = await lab.take()
    append = lab.journal.append

    async def slow(*of: Any) -> None:
        await asyncio.sleep(0.5)
        await append(*of)

    lab.journal.append = slow  # type: ignore[method-assign]
    await lab.finish(task)
    await until(lambda: run not in lab.shard.session.state.runs)
    assert not lab.shard.is_settled
    run_now, steps, events, explained = await asyncio.gather(
        lab.ask(api.GetRun(run, 0, True), api.RunInfo),
        lab.ask(api.GetSteps(run), api.Steps),
        lab.ask(api.GetEvents(run), api.Events),
        lab.ask(api.Explain(run), api.Explained),
    )
    assert (run_now.summary.status, len(run_now.results)) == ("completed", 1)
    assert [step.status for step in steps.steps] == ["success"]
    assert events.ended
    assert explained.lines == ["the run is over: completed"]
    await lab.stop()


@virtual
async def test_items_are_paged_by_number() -> None:
    lab = await Lab().start()
    run = await finished(lab, *range(5))
    first = await lab.ask(api.GetItems(run, 0, 2), api.Items)
    assert ([item.item for item in first.results], first.more) == ([0, 1], True)
    last = await lab.ask(api.GetItems(run, 3, 2), api.Items)
    assert ([item.item for item in last.results], last.more) == ([3, 4], False)
    assert (await lab.ask(api.GetItems(run, 5, 2), api.Items)).results == []
    await lab.stop()


@pytest.mark.parametrize("limit", [0, -1, 10**9])
def test_a_limit_is_between_one_and_a_page(limit: int) -> None:
    @virtual
    async def check() -> None:
        lab = await Lab().start()
        run = await finished(lab, *range(3))
        page = await lab.ask(api.GetItems(run, -7, limit), api.Items)
        assert len(page.results) == (3 if limit > 0 else 1)
        await lab.stop()

    check()


@virtual
async def test_pages_are_bounded_by_bytes() -> None:
    lab = await Lab(bus=MemoryBus(max_message_bytes=20_000)).start()
    run = await finished(lab, *range(8), output="x" * 4_000)
    told: list[int] = []
    pages = 0
    more = True
    while more:
        page = await lab.ask(api.GetItems(run, len(told)), api.Items)
        told += [item.item for item in page.results]
        more, pages = page.more, pages + 1
    assert told == list(range(8))
    assert pages == 4
    info = await lab.ask(api.GetRun(run, 0, True), api.RunInfo)
    assert [item.item for item in info.results] == [0, 1]
    steps = await lab.ask(api.GetSteps(run), api.Steps)
    assert ([step.item for step in steps.steps], steps.more) == ([0, 1], True)
    rest = await lab.ask(api.GetSteps(run, first=6), api.Steps)
    assert ([step.item for step in rest.steps], rest.more) == ([6, 7], False)
    events = await lab.ask(api.GetEvents(run), api.Events)
    assert not events.ended
    await lab.stop()


@virtual
async def test_an_answer_that_cannot_fit_says_so() -> None:
    lab = await Lab(bus=MemoryBus(max_message_bytes=20_000)).start()
    flow = {**ONE_STEP, "output": [{"$step": "a"}, {"$step": "a"}]}
    run = await lab.submit(flow)
    await lab.finish(*await lab.take(), output="x" * 15_000)
    await until(lambda: run not in lab.shard.session.state.runs)
    refused = await lab.ask(api.GetItems(run), Refused)
    assert refused.code == "SM-3002"
    assert "20000" in refused.message
    assert (await lab.ask(api.GetRun(run), api.RunInfo)).summary.status == "completed"
    await lab.stop()


@virtual
async def test_steps_of_live_and_ended_items_come_in_order() -> None:
    lab = await Lab().start()
    run = await lab.submit(ONE_STEP, 0, 1, 2, max_concurrency=0)
    tasks = {task.item: task for _ in range(3) for task in await lab.take(timeout_s=0.1)}
    await lab.finish(tasks[1])
    await until(lambda: len(lab.shard.session.state.runs[run].items) == 2)
    steps = await lab.ask(api.GetSteps(run), api.Steps)
    assert [(step.item, step.status) for step in steps.steps] == [(0, "running"), (1, "success"), (2, "running")]
    one = await lab.ask(api.GetSteps(run, 1), api.Steps)
    assert ([step.item for step in one.steps], one.more) == ([1], False)
    assert (await lab.ask(api.GetSteps(run, 9), api.Steps)).steps == []
    assert [step.item for step in (await lab.ask(api.GetSteps(run, first=2), api.Steps)).steps] == [2]
    await lab.stop()


@virtual
async def test_steps_of_many_items_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "PAGE", 3)
    lab = await Lab().start()
    run = await lab.submit(ONE_STEP, *range(5), max_concurrency=0)
    seen: list[int] = []
    more = True
    while more:
        page = await lab.ask(api.GetSteps(run, first=len(seen)), api.Steps)
        seen += [step.item for step in page.steps]
        more = page.more
    assert seen == [0, 1, 2, 3, 4]
    await lab.stop()


@virtual
async def test_runs_are_listed_newest_first_and_filtered() -> None:
    lab = await Lab().start()
    done = await finished(lab)
    await asyncio.sleep(1)
    live = await lab.submit({**ONE_STEP, "name": "two"})

    async def listed(**query: Any) -> list[str]:
        return [run.run for run in (await lab.ask(api.ListRuns(**query), api.Runs)).runs]

    assert await listed() == [live, done]
    assert await listed(status="completed") == [done]
    assert await listed(status="running") == [live]
    assert await listed(flow_name="two") == [live]
    assert await listed(root=done) == [done]
    assert await listed(parent=done) == []
    assert await listed(roots_only=True, limit=1) == [live]
    assert await listed(limit=1, offset=1) == [done]
    assert await listed(offset=2) == []
    assert await listed(limit=0) == []
    assert await listed(limit=-1) == []
    assert await listed(offset=-5) == [live, done]
    await lab.stop()


@virtual
async def test_a_listed_run_shows_what_it_is_now() -> None:
    lab = await Lab().start()
    run = await lab.submit(ONE_STEP, 1, 2, max_concurrency=0)
    await lab.finish((await lab.take(timeout_s=0.1))[0])
    await until(lambda: lab.shard.session.state.runs[run].completed == 1)
    (listed,) = (await lab.ask(api.ListRuns(), api.Runs)).runs
    assert (listed.status, listed.completed, listed.total) == ("running", 1, 2)
    await lab.stop()


@virtual
async def test_explain_names_pool_and_worker_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "MAX_CAUSES", 3)
    lab = await Lab().start()
    run = await lab.submit(ONE_STEP, *range(4), max_concurrency=0)
    lines = (await lab.ask(api.Explain(run), api.Explained)).lines
    assert "pool py has 0 workers: start one" in lines[0]
    assert len(lines) == 4
    assert lines[-1] == "… and 5 more"
    await say(lab)
    assert "pool py has 1 workers" in (await lab.ask(api.Explain(run), api.Explained)).lines[0]
    await lab.control(Cancel(run))
    assert (await lab.ask(api.Explain(run), api.Explained)).lines == ["the run is over: cancelled"]
    await lab.stop()


# --- pools and components ---


async def say(lab: Lab, stopping: bool = False) -> None:
    hello = Hello(W1, Pool("py"), 8, "1.2", [ComponentInfo("/work", "does it")], 3, stopping)
    await lab.client.send(subjects.presence(lab.namespace), encode(hello))
    await asyncio.sleep(0.01)


@virtual
async def test_pools_show_what_waits_what_is_held_and_by_whom() -> None:
    lab = await Lab().start()
    await say(lab)
    await lab.submit(ONE_STEP, 1, 2, max_concurrency=0)
    await lab.claim((await lab.take(timeout_s=0.1))[0])
    (pool,) = (await lab.ask(ListPools(), Pools)).pools
    assert (pool.pool, pool.queued, pool.in_flight) == ("py", 1, 1)
    (worker,) = pool.workers
    assert (worker.worker, worker.capacity, worker.running, worker.version) == ("w1", 8, 3, "1.2")
    await asyncio.sleep(20)
    (pool,) = (await lab.ask(ListPools(), Pools)).pools
    assert pool.workers == []
    await lab.stop()


@virtual
async def test_components_are_listed_under_the_path_that_a_flow_writes() -> None:
    lab = await Lab().start()
    await say(lab)
    found = {entry.path: entry for entry in (await lab.ask(api.ListComponents(), api.Components)).components}
    assert (found["/py/work"].workers, found["/py/work"].component.description) == (1, "does it")
    assert "/builtin/map" in found
    assert list(found) == sorted(found)
    await say(lab, stopping=True)
    await lab.client.send(subjects.presence(lab.namespace), b"nonsense")
    found = {entry.path: entry for entry in (await lab.ask(api.ListComponents(), api.Components)).components}
    assert found["/py/work"].workers == 0
    await lab.stop()


@virtual
async def test_a_pool_tells_how_long_the_oldest_that_waits_does() -> None:
    lab = await Lab().start()
    await lab.submit(ONE_STEP, 1, max_concurrency=0)
    (first,) = await lab.take(timeout_s=0.1)
    await asyncio.sleep(3)
    await lab.submit(ONE_STEP, *range(5), max_concurrency=0)
    (pool,) = (await lab.ask(ListPools(), Pools)).pools
    assert (pool.queued, pool.in_flight, pool.wanted) == (6, 0, 6), "tasks, whatever frames they travel in"
    assert 3_000 <= pool.oldest_ms < 4_000
    await lab.claim(first)
    (pool,) = (await lab.ask(ListPools(), Pools)).pools
    assert (pool.queued, pool.in_flight, pool.wanted) == (5, 1, 6)
    assert pool.oldest_ms < 1_000, "what is claimed waits no more"
    await lab.stop()
