"""Runs in a test: doubles, failures, events, time, histories as files, and the checks that find what a replay would do otherwise."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest

from stepmesh.durable import fixtures, wf
from stepmesh.durable.app import App
from stepmesh.durable.errors import BadWorkflow, StepFailed
from stepmesh.durable.execution import State
from stepmesh.durable.rehearsal import replay
from stepmesh.durable.retrying import Retry
from stepmesh.durable.testing import env
from stepmesh.durable.workflow import Workflow
from stepmesh.errors import Cancelled
from stepmesh_broker.protocol.histories import CancelAsked, Issued, Settled, Tried

orders = App("orders")
log: list[str] = []


class Order(msgspec.Struct):
    id: str
    total: int


class Receipt(msgspec.Struct):
    id: str


class Approval(orders.Event):
    approved: bool


@orders.step(retry=Retry(max=5))
async def charge(order: Order) -> Receipt:
    log.append("charge")
    return Receipt(f"receipt of {order.id}")


@orders.step
async def refund(receipt: Receipt) -> None:
    log.append(f"refund {receipt.id}")


@orders.step(pool="gpu", retry=Retry(max=3))
def render(order: Order) -> str:
    return f"picture of {order.id}"


@orders.workflow
async def ship(order: Order) -> str:
    return await wf.run("parcel", lambda: f"parcel of {order.id}")


@orders.workflow(version=3)
async def order_saga(order: Order) -> Any:
    async with wf.saga() as saga:
        receipt = await charge(order)
        saga.undo(refund, receipt)
        picture, stock = await asyncio.gather(render(order), wf.call("/stock/reserve", {"order": order.id}))
        answer = await Approval.wait(key=order.id, timeout="3d")
        if not answer.approved:
            raise ValueError("not approved")
        await wf.sleep("1h")
        return [receipt.id, picture, stock, await wf.call(ship, order)]


def workflow(body: Any, guard: Any = "error") -> Workflow[..., Any]:
    return App("orders").workflow(guard=guard)(body)


@pytest.mark.parametrize("always_replay", [True, False])
@pytest.mark.parametrize("seed", range(5))
async def test_a_saga_with_approval_pools_a_child_and_a_sleep(seed: int, always_replay: bool) -> None:
    log.clear()
    async with env(orders, seed=seed, always_replay=always_replay) as t:
        t.mock("/stock/reserve", returns="reserved")
        t.fail(charge, times=2)
        t.fail(render, times=2)
        run = await t.start(order_saga, Order("o1", 7))
        await t.until(run, waiting_for=Approval)
        await t.send(Approval(approved=True), key="o1")
        assert await run.result() == ["receipt of o1", "picture of o1", "reserved", "parcel of o1"]
        t.assert_history(run, ["charge", "/gpu/orders/render", "/stock/reserve", "timer", "Approval", "sleep", "/orders/ship"])
        t.crash_at_every_record(run)
    assert log == ["charge"]
    assert [record.attempt for record in run.records if isinstance(record, Tried)] == [1, 2]


async def test_what_was_done_is_undone_when_it_is_not_approved_or_cancelled() -> None:
    for answer in (Approval(approved=False), None):
        log.clear()
        async with env(orders) as t:
            t.mock("/stock/reserve", returns="reserved")
            run = await t.start(order_saga, Order("o1", 7))
            await t.until(run, waiting_for=Approval)
            if answer is None:
                await t.cancel(run, "by hand")
                with pytest.raises(Cancelled):
                    await run.result()
            else:
                await t.send(answer, key="o1")
                with pytest.raises(ValueError, match="not approved"):
                    await run.result()
            t.crash_at_every_record(run)
        assert log == ["charge", "refund receipt of o1"]


async def test_doubles_stand_in_for_steps_components_and_flows() -> None:
    async with env(order_saga) as t:
        t.mock(charge, calls=lambda order: {"id": f"double of {order['id']}"})
        t.mock(render, returns="double")
        t.mock("/stock/reserve", calls=lambda order: f"double of {order}")
        t.mock(ship, returns="double of a parcel")
        run = await t.start(order_saga, Order("o1", 7))
        await t.send("Approval", {"approved": True}, key="o1")
        assert await run.result() == ["double of o1", "double", "double of o1", "double of a parcel"]
        assert ("/stock/reserve", {"order": "o1"}) in t.doubles.calls


async def test_failures_come_first_and_count_as_attempts() -> None:
    async with env(orders) as t:
        t.mock("/stock/reserve", returns="reserved")
        t.fail(render, times=3, error=KeyError("no gpu"))
        run = await t.start(order_saga, Order("o1", 7))
        with pytest.raises(StepFailed, match="render failed after 3 attempts: 'no gpu'"):
            await run.result()


async def test_what_nothing_answers_says_what_to_do() -> None:
    async with env(order_saga) as t:
        t.mock(render, returns="double")
        run = await t.start(order_saga, Order("o1", 7))
        with pytest.raises(StepFailed, match=r"nothing answers /stock/reserve: t.mock\('/stock/reserve', returns=…\)"):
            await run.result()


async def test_a_child_is_a_stored_flow_and_needs_a_double() -> None:
    @workflow
    async def parent() -> Any:
        return await wf.child("flow://report", {"of": 1})

    async with env(parent) as t:
        with pytest.raises(StepFailed, match="nothing answers flow://report"):
            await (await t.start(parent)).result()
        t.mock("flow://report", calls=lambda of: f"report of {of}")
        assert await (await t.start(parent)).result() == "report of 1"


async def test_waiting_for_what_never_comes_is_told() -> None:
    async with env(order_saga) as t:
        t.mock(render, returns="double")
        t.mock("/stock/reserve", returns=1)
        run = await t.start(order_saga, Order("o1", 7))
        with pytest.raises(AssertionError, match="did not wait for Rejection"):
            await t.until(run, waiting_for="Rejection")


async def test_time_passes_only_as_far_as_it_is_told() -> None:
    @workflow
    async def naps() -> str:
        wf.set("at", "first")
        await wf.sleep("1h")
        wf.set("at", "second")
        await wf.sleep("1h")
        return "awake"

    async with env(naps) as t:
        run = await t.start(naps)
        await t.skip(run, "59m")
        assert len(run.records) == 2
        await t.skip(run, "59m")
        assert run.now_ms - run.history.started_ms == 118 * 60_000
        assert [record.at_ms - run.history.started_ms for record in run.records if isinstance(record, Settled)] == [3_600_000]
        assert await run.result() == "awake"
        assert run.now_ms - run.history.started_ms == 7_200_000


async def test_seeds_reach_every_order() -> None:
    @workflow
    async def races() -> int:
        return (await wf.first(wf.run("a", lambda: 1), wf.run("b", lambda: 2), wf.run("c", lambda: 3)))[0]

    reached = set()
    for seed in range(30):
        async with env(races, seed=seed) as t:
            run = await t.start(races)
            reached.add(await run.result())
            t.crash_at_every_record(run)
    assert reached == {0, 1, 2}


async def test_what_changes_by_itself_fails_the_test_that_meets_it() -> None:
    drawn = random.Random(1)

    @workflow
    async def draws() -> None:
        await wf.run("one", lambda number: number, drawn.random())
        await wf.run("two", lambda: 1)

    async with env(draws) as t:
        run = await t.start(draws)
        with pytest.raises(AssertionError, match="SM-1005 Replay diverged"):
            await run.result()


async def test_a_crash_finds_what_a_live_body_hides() -> None:
    drawn: list[int] = []

    @workflow
    async def counts() -> int:
        drawn.append(1)
        await wf.run("one", lambda: 1)
        return len(drawn)

    async with env(counts, always_replay=False) as t:
        run = await t.start(counts)
        assert await run.result() == 1
        with pytest.raises(AssertionError, match="a crash after record 0: the result is"):
            t.crash_at_every_record(run)


async def test_a_history_is_a_file_that_todays_code_replays() -> None:
    async with env(orders) as t:
        t.mock("/stock/reserve", returns="reserved")
        t.fail(charge)
        run = await t.start(order_saga, Order("o1", 7))
        await t.until(run, waiting_for=Approval)
        await t.cancel(run)
        with pytest.raises(Cancelled):
            await run.result()
    text = fixtures.dumps(run.history)
    assert '"total": 7' in text
    kept = fixtures.loads(text)
    assert {type(record) for record in run.records} == {Issued, Settled, Tried, CancelAsked}
    assert kept.read() == run.records
    assert replay(order_saga, kept) is None

    @workflow
    async def changed(order: Order) -> Any:
        await wf.run("fraud check", lambda: 1)
        await charge(order)

    found = replay(changed, kept)
    assert found is not None
    assert (found.code, found.id) == ("SM-1001", "r/charge")
    assert "`fraud check` was inserted before `charge`" in str(found)


LETTERS = {f"letter {number}" for number in range(12)}


@orders.workflow(guard="off")
async def goes_through_a_set(sort: bool) -> None:
    for letter in sorted(LETTERS) if sort else LETTERS:
        await wf.run(letter, lambda: 1)


async def test_another_process_finds_what_depends_on_the_order_of_a_set() -> None:
    async with env(goes_through_a_set) as t:
        run = await t.start(goes_through_a_set, True)
        await run.result()
        t.replay_elsewhere(run)
        run = await t.start(goes_through_a_set, False)
        await run.result()
        with pytest.raises(AssertionError, match=r"SM-1005 Replay diverged at test_testing\.py"):
            t.replay_elsewhere(run)


async def test_a_workflow_that_no_other_process_finds_is_refused() -> None:
    @workflow
    async def local() -> None: ...

    async with env(local) as t:
        run = await t.start(local)
        with pytest.raises(BadWorkflow, match="declare it in a module"):
            t.replay_elsewhere(run)


async def test_a_run_that_ended_stays_as_it_is() -> None:
    async with env(ship) as t:
        run = await t.start(ship, Order("o1", 1))
        assert await run.result() == await run.result() == "parcel of o1"
        assert run.look().state is State.DONE
        assert run.open() == []
