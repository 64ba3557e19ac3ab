"""Events and promises: whichever comes first, the wait or what it waits for; and timeouts, which are timers of the same body."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest
from tests.unit.durable.bodies import BEGAN_MS, RUN

from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh.durable.errors import StepFailed
from stepmesh.durable.execution import Execution, State
from stepmesh.durable.testing import env
from stepmesh.durable.workflow import Workflow
from stepmesh.errors import InvalidInput
from stepmesh_broker.protocol import tokens
from stepmesh_broker.protocol.histories import Issued, Kind, Settled

orders = App("orders")


class Approval(orders.Event):
    approved: bool
    by: str = ""


def workflow(body: Any) -> Workflow[..., Any]:
    return App("orders").workflow(body)


@workflow
async def approved(order: str) -> Any:
    await wf.run("ask", lambda: None)
    try:
        answer = await Approval.wait(key=order, timeout="3d")
    except TimeoutError as problem:
        return [str(problem), wf.now().timestamp() - BEGAN_MS / 1000]
    return [answer.approved, answer.by]


@pytest.mark.parametrize("is_early", [True, False])
async def test_an_event_counts_before_and_after_the_wait(is_early: bool) -> None:
    async with env(approved) as t:
        run = await t.start(approved, "o1")
        if not is_early:
            await t.until(run, waiting_for=Approval)
        await t.send(Approval(approved=False, by="bob"), key="o2")
        await t.send(Approval(approved=True, by="ann"), key="o1")
        assert await run.result() == [True, "ann"]
        t.crash_at_every_record(run)
        t.assert_history(run, ["ask", "timer", "Approval"])


async def test_an_event_from_before_the_run_counts_when_the_wait_says_so() -> None:
    @workflow
    async def waits(everything: bool) -> Any:
        return (await Approval.wait(since=None if everything else "run-start")).by

    async with env(waits) as t:
        await t.send(Approval(approved=True, by="ann"))
        late, early = await t.start(waits, False), await t.start(waits, True)
        assert await early.result() == "ann"
        await t.send(Approval(approved=True, by="bob"))
        assert await late.result() == "bob"


async def test_without_it_the_wait_ends_at_its_time() -> None:
    async with env(approved) as t:
        assert await (await t.start(approved, "o1")).result() == ["no Approval for 'o1' within 3d", 259_200.0]


async def test_a_saga_may_wait_for_an_event_to_undo() -> None:
    @workflow
    async def waits(_: None) -> None:
        async with wf.saga() as saga:
            saga.undo(wf.wait_for_event, "undone")
            await wf.run("fails", lambda: 1 // 0)

    async with env(waits) as t:
        await t.send("undone")
        run = await t.start(waits)
        await t.until(run, waiting_for="undone")
        await t.send("undone")
        with pytest.raises(StepFailed):
            await run.result()
        assert isinstance(run.records[-1], Settled)


async def test_an_event_is_given_to_one_wait() -> None:
    @workflow
    async def two() -> Any:
        return sorted([answer.by for answer in await asyncio.gather(Approval.wait(), Approval.wait())])

    async with env(two) as t:
        run = await t.start(two)
        await t.send(Approval(approved=True, by="ann"))
        with pytest.raises(AssertionError, match=r"waits for ever, for event Approval \(test_events.py:\d+\): t.send"):
            await run.result()
        await t.send(Approval(approved=True, by="bob"))
        assert await run.result() == ["ann", "bob"]


async def test_every_run_that_waits_gets_an_event_once_as_on_a_server() -> None:
    @workflow
    async def waits(key: str) -> str:
        return (await Approval.wait(key=key)).by

    async with env(waits) as t:
        keyed, named = [[await t.start(waits, key) for _ in range(2)] for key in ("o1", "")]
        await t.send(Approval(approved=True, by="ann"), key="o1")
        await t.send(Approval(approved=True, by="bob"), key=named[0].id)
        assert [await run.result() for run in keyed] == ["ann", "ann"]
        assert await named[0].result() == "bob", "without a key it hears who names the run"
        await t.send(Approval(approved=True, by="cat"))
        assert await named[1].result() == "cat"


async def test_a_subscription_gives_one_after_the_other() -> None:
    @workflow
    async def three() -> Any:
        found: list[str] = []
        async with contextlib.aclosing(Approval.subscribe(key="k")) as answers:
            async for answer in answers:
                found.append(answer.by)
                if len(found) == 3:
                    break
        return found

    async with env(three) as t:
        run = await t.start(three)
        for by in ("ann", "bob", "cid"):
            await t.send("Approval", {"approved": True, "by": by}, key="k")
        assert await run.result() == ["ann", "bob", "cid"]
        assert [record.id for record in run.records if isinstance(record, Issued)] == ["r/Approval", "r/Approval#2", "r/Approval#3"]


async def test_what_does_not_fit_the_type_is_raised_in_the_body() -> None:
    @workflow
    async def waits() -> Any:
        try:
            await Approval.wait()
        except InvalidInput as problem:
            return problem.path

    async with env(waits) as t:
        run = await t.start(waits)
        await t.send("Approval", {"approved": "perhaps"})
        assert await run.result() == "$.approved"


@pytest.mark.parametrize(("since", "expected"), [("run-start", None), (None, "all"), ("5m", 600_000 - 300_000)])
async def test_since_when_an_event_counts_is_an_option_of_the_command(since: Any, expected: Any) -> None:
    @workflow
    async def waits() -> Any:
        await wf.sleep("10m")
        return await wf.wait_for_event("paid", "k", since=since)

    async with env(waits) as t:
        run = await t.start(waits)
        command = await t.until(run, waiting_for="paid")
    options = msgspec.json.decode(command.options) if command.options else {}
    since_ms = 0 if expected == "all" else run.history.started_ms + (expected or 0)
    assert options == ({} if expected is None else {"since_ms": since_ms})
    assert (command.kind, command.arguments) == (Kind.EVENT, b'{"key":"k"}')


async def test_a_promise_is_kept_by_who_has_its_token() -> None:
    given: list[str] = []

    @workflow
    async def asks() -> Any:
        promise = wf.promise(Approval, timeout="7d")
        await wf.run("mail", lambda: given.append(promise.token))
        answer = await promise
        return [answer.by, (await promise).by]

    async with env(asks) as t:
        run = await t.start(asks)
        await t.until(run, waiting_for="Approval")
        await t.skip(run, "1d")
        waiter = tokens.read_token(given[0])
        assert waiter is not None
        assert (waiter.run, waiter.command) == (run.id, "r/Approval")
        with pytest.raises(ValueError, match="no token of a wait"):
            await t.settle("a guess", 1)
        await t.settle(given[0], Approval(approved=True, by="ann"))
        assert await run.result() == ["ann", "ann"]
        t.crash_at_every_record(run)


async def test_a_promise_that_nobody_keeps_ends_at_its_time_from_its_making() -> None:
    @workflow
    async def asks() -> Any:
        promise = wf.promise(timeout="7d")
        await wf.sleep("8d")
        try:
            return await promise
        except TimeoutError as problem:
            return str(problem)

    async with env(asks) as t:
        assert await (await t.start(asks)).result() == "nobody settled promise within 7d"


def test_what_is_waited_for_no_more_is_told() -> None:
    async def body() -> Any:
        try:
            return await Approval.wait(timeout=1)
        except TimeoutError:
            return await wf.run("late", lambda: 1)

    execution = Execution(body, BEGAN_MS, RUN)
    first = execution.turn()
    assert [command.id for command in first.commands] == ["r/timer", "r/Approval"]
    second = execution.turn([*first.commands, Settled("r/timer", BEGAN_MS + 1000)])
    assert (second.state, second.abandoned) == (State.IDLE, ["r/Approval"])
    execution.drop()
