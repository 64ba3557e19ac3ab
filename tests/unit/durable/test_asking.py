"""What others see of a body and ask it, and what it notes down: queries, updates, streams, attributes, tags, its log."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import pytest
from msgspec import structs
from tests.unit.durable.bodies import BEGAN_MS, RUN

from stepmesh.durable import execution, wf
from stepmesh.durable.app import App
from stepmesh.durable.execution import Execution, State
from stepmesh.durable.handlers import ReadOnly, UnknownHandler
from stepmesh.durable.hosting import QueryFailed, hosted
from stepmesh.durable.limits import STRICT, Limits
from stepmesh.durable.testing import env
from stepmesh.durable.values import PayloadTooLarge
from stepmesh.durable.workflow import Workflow
from stepmesh.errors import Cancelled, ComponentError
from stepmesh_broker.protocol.histories import Began, CancelAsked, Issued, Kind, Settled, UpdateAsked, encode_records
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import Failure, Task
from stepmesh_broker.protocol.queries import QueryTask


def workflow(body: Any) -> Workflow[..., Any]:
    return App("orders").workflow(body)


def refuse_empty(address: str) -> None:
    if not address:
        raise ValueError("an address is needed")


@workflow
async def delivery(address: str) -> Any:
    moves: list[str] = []

    @wf.query
    def state() -> Any:
        return {"address": address, "moves": moves}

    @wf.query(name="since")
    def at() -> float:
        return wf.now().timestamp()

    @wf.query
    def writes() -> None:
        wf.set("status", "read")

    @wf.update(validator=refuse_empty)
    async def change(to: str) -> str:
        nonlocal address
        quote = await wf.run("quote", lambda: f"{address}→{to}")
        address = to
        moves.append(quote)
        return quote

    await wf.wait_for_event("delivered")
    return address


async def test_a_query_reads_the_state_as_it_is() -> None:
    async with env(delivery) as t:
        run = await t.start(delivery, "here")
        assert t.query(run, "state") == {"address": "here", "moves": []}
        assert t.query(run, "since") == BEGAN_MS / 1000
        records = list(run.records)
        with pytest.raises(ReadOnly) as caught:
            t.query(run, "writes")
        assert caught.value.code == "SM-1071"
        assert "`status` at test_asking.py:" in str(caught.value)
        assert "@wf.update" in caught.value.hint
        with pytest.raises(UnknownHandler, match=r"no query `stat`.*there is state"):
            t.query(run, "stat")
        assert run.records == records


def test_a_query_that_could_wait_is_refused() -> None:
    async def body() -> None:
        @wf.query
        async def state() -> int:
            return 1

    made = Execution(body, BEGAN_MS)
    turn = made.turn()
    made.drop()
    assert isinstance(turn.error, ReadOnly)
    assert "the query `state` (test_asking.py:" in str(turn.error)


@workflow
async def leaves() -> None:
    @wf.query
    def state() -> int:
        return 7

    @wf.query
    def stops() -> None:
        sys.exit(3)

    await wf.run("one", lambda: 1)
    sys.exit(2)


@pytest.mark.parametrize(("name", "is_over", "told"), [("state", True, "SystemExit: 2"), ("stops", False, "SystemExit: 3")])
def test_a_query_ends_no_worker(name: str, is_over: bool, told: str) -> None:
    asked = Issued("r/one", Kind.STEP, "one", "", b"{}", "")
    records = [Began(BEGAN_MS), asked, *([Settled("r/one", BEGAN_MS, b"1")] if is_over else [])]
    task = Task(RunId(RUN), 0, 0, 1, 1, "leaves", "/leaves", b"null", history=encode_records(records))
    query = hosted(leaves).query
    assert query is not None
    with pytest.raises(QueryFailed, match=told):
        query(QueryTask(task, "j", name, b"null"))


@pytest.mark.parametrize("always_replay", [True, False])
async def test_an_update_changes_the_body_and_gets_its_reply(always_replay: bool) -> None:
    async with env(delivery, always_replay=always_replay) as t:
        run = await t.start(delivery, "here")
        assert await t.update(run, "change", "there") == "here→there"
        assert await t.update(run, "change", "home") == "there→home"
        assert t.query(run, "state") == {"address": "home", "moves": ["here→there", "there→home"]}
        await t.send("delivered")
        assert await run.result() == "home"
        t.crash_at_every_record(run)
    replies = [record for record in run.records if isinstance(record, Issued) and record.kind is Kind.REPLY]
    assert [(one.id.partition("/")[0], one.arguments) for one in replies] == [
        ("u.1", '{"value":"here→there"}'.encode()),
        ("u.2", '{"value":"there→home"}'.encode()),
    ]


async def test_an_update_that_is_refused_or_unknown_is_told_so() -> None:
    async with env(delivery) as t:
        run = await t.start(delivery, "here")
        with pytest.raises(ComponentError, match="an address is needed") as caught:
            await t.update(run, "change", "")
        assert caught.value.code.name == "INVALID_INPUT"
        with pytest.raises(ComponentError, match="invalid input"):
            await t.update(run, "change", 7)
        with pytest.raises(ComponentError, match=r"SM-1072 the workflow has no update `chang`.*there is change"):
            await t.update(run, "chang", "x")
        t.fail("quote", error=KeyError("closed"))
        with pytest.raises(ComponentError, match="quote failed after 1 attempt"):
            await t.update(run, "change", "x")
        assert t.query(run, "state") == {"address": "here", "moves": []}


@workflow
async def copies() -> None:
    @wf.update
    async def copy(count: int) -> str:
        return "x" * await wf.run("count", lambda: count)

    @wf.update
    async def read() -> None:
        raise FileNotFoundError("caf\udce9.txt")

    await wf.wait_for_event("done")


@pytest.mark.parametrize("more", [0, 1])
async def test_a_reply_that_no_message_carries_is_an_error_of_the_update_alone(more: int) -> None:
    around = len(b'{"value":""}')
    async with env(copies, limits=structs.replace(STRICT, payload_bytes=1_000)) as t:
        run = await t.start(copies)
        if more:
            with pytest.raises(ComponentError, match=r"SM-1031 `the reply of copy`.*: 1001 bytes, above the limit of 1000"):
                await t.update(run, "copy", 1_000 - around + more)
        else:
            assert len(await t.update(run, "copy", 1_000 - around)) == 1_000 - around
        await t.send("done")
        await run.result()
        t.crash_at_every_record(run)


async def test_an_update_whose_error_is_no_unicode_has_a_reply() -> None:
    async with env(copies) as t:
        run = await t.start(copies)
        with pytest.raises(ComponentError, match=r"caf\\udce9"):
            await t.update(run, "read")


async def test_updates_run_beside_each_other_and_the_body_in_every_order() -> None:
    @workflow
    async def counts() -> Any:
        added: list[int] = []

        @wf.update
        async def add(n: int) -> int:
            added.append(await wf.run("add", lambda: n))
            return len(added)

        await wf.sleep("1h")
        return sorted(added)

    for seed in range(20):
        async with env(counts, seed=seed) as t:
            run = await t.start(counts)
            for n in (1, 2, 3):
                run.append(lambda now_ms, n=n: UpdateAsked(f"u{n}", now_ms, "add", str(n).encode()))  # type: ignore[misc]
            assert await run.result() == [1, 2, 3]
            t.crash_at_every_record(run)


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_the_run_ends_after_the_replies(is_cancelled: bool) -> None:
    @workflow
    async def waits() -> str:
        @wf.update
        async def slow() -> str:
            await wf.sleep("1h")
            return "done"

        await wf.sleep("1s")
        return "over"

    async with env(waits) as t:
        run = await t.start(waits)
        run.append(lambda now_ms: UpdateAsked("u1", now_ms, "slow"))
        run.look()
        if is_cancelled:
            await t.cancel(run)
            with pytest.raises(Cancelled):
                await run.result()
        else:
            assert await run.result() == "over"
        t.crash_at_every_record(run)
    (reply,) = (record for record in run.records if isinstance(record, Issued) and record.kind is Kind.REPLY)
    assert reply.arguments == (b'{"error":{"code":4,"message":"the run was cancelled"}}' if is_cancelled else b'{"value":"done"}')


async def test_notes_are_records_in_their_order() -> None:
    @workflow
    async def packs() -> None:
        wf.set("status", "packing")
        progress = wf.stream("progress")
        for pct in (10, 90):
            await progress.write({"pct": pct})
            await wf.sleep("1s")
        wf.tags.add("vip")
        wf.tags.add("customer", "c1")
        wf.tags.remove("vip")

    async with env(packs) as t:
        run = await t.start(packs)
        await run.result()
        t.crash_at_every_record(run)
    notes = [record for record in run.records if isinstance(record, Issued) and record.kind is not Kind.TIMER]
    assert [(one.kind.value, one.name, one.arguments) for one in notes] == [
        ("attribute", "status", b'"packing"'),
        ("stream", "progress", b'{"pct":10}'),
        ("stream", "progress", b'{"pct":90}'),
        ("tag", "vip", b'""'),
        ("tag", "customer", b'"c1"'),
        ("tag", "vip", b"null"),
    ]


@pytest.mark.parametrize("more", [0, 1])
async def test_a_note_is_small(more: int) -> None:
    @workflow
    async def writes() -> None:
        await wf.stream("progress").write("x" * (98 + more))

    async with env(writes, limits=Limits(stream_bytes=100)) as t:
        run = await t.start(writes)
        if not more:
            await run.result()
            assert len(run.records) == 1
            return
        with pytest.raises(PayloadTooLarge) as caught:
            await run.result()
    assert caught.value.code == "SM-1031"
    assert "`stream progress` (test_asking.py:" in str(caught.value)
    assert "101 bytes, above the limit of 100" in str(caught.value)
    assert "pass its id" in caught.value.hint


async def test_a_body_knows_its_run() -> None:
    @workflow
    async def tells() -> Any:
        info = wf.info()
        return [info.run, info.workflow, info.version, info.attempt, info.started.timestamp()]

    async with env(tells) as t:
        run = await t.start(tells)
        assert await run.result() == [run.id, "tells", tells.version, 1, BEGAN_MS / 1000]


async def test_the_log_of_a_body_says_each_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, str]] = []
    logger = logging.getLogger("stepmesh.workflow")
    monkeypatch.setattr(logger, "handle", lambda record: said.append((record.getMessage(), record.run_id)))
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.manager._clear_cache()  # type: ignore[attr-defined]

    @workflow
    async def talks() -> None:
        for name in ("one", "two", "three"):
            wf.logger.info("before %s", name)
            await wf.run(name, lambda: None)
        wf.logger.info("over")

    async with env(talks) as t:
        run = await t.start(talks)
        await run.result()
    assert said == [(line, run.id) for line in ("before one", "before two", "before three", "over")]
    logger.manager._clear_cache()  # type: ignore[attr-defined]


async def test_a_run_goes_on_as_a_new_one_and_leaves_the_rest() -> None:
    undone: list[str] = []

    @workflow
    async def polls(n: int) -> int:
        async with wf.saga() as saga:
            saga.undo(lambda: wf.run("undo", lambda: undone.append("undone")))
            left = asyncio.ensure_future(wf.sleep("30d"))
            await wf.run("poll", lambda: n)
            if n < 3:
                wf.continue_as_new(n + 1)
            left.cancel()
        return n

    async with env(polls) as t:
        run = await t.start(polls, 1)
        assert await run.result() == 3
        assert [len(records) for records in run.rounds] == [3, 3]
        t.crash_at_every_record(run)
    assert undone == []


def test_a_body_that_went_on_is_over_with_its_new_input() -> None:
    async def body() -> None:
        try:
            await wf.run("poll", lambda: 1)
            wf.continue_as_new({"cursor": 5})
        except BaseException:
            await wf.run("never", lambda: 1)

    made = Execution(body, BEGAN_MS, RUN)
    first = made.turn()
    last = made.turn([*first.commands, Settled("r/poll", BEGAN_MS + 1)])
    assert (last.state, last.value, last.commands) == (State.CONTINUED, {"cursor": 5}, [])
    made.drop()


async def test_the_run_ends_after_what_was_detached() -> None:
    done: list[str] = []

    @workflow
    async def mails() -> str:
        wf.detach(wf.run("mail", lambda: done.append("mail")))
        wf.detach(wf.run("fails", lambda: 1 / 0))
        return "ended"

    for seed in range(4):
        done.clear()
        async with env(mails, seed=seed) as t:
            run = await t.start(mails)
            assert run.look().state is State.IDLE
            assert await run.result() == "ended"
            assert done == ["mail"]


def test_a_detached_task_that_fails_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(execution.log, "warning", lambda text, *values: said.append(text % values))

    async def body() -> None:
        wf.detach(wf.run("mail", lambda: None))
        await wf.run("first", lambda: None)
        await wf.run("second", lambda: None)

    failed = Settled("r.1/mail", BEGAN_MS + 1, failure=Failure(3, "refused"))
    one = Execution(body, BEGAN_MS, RUN)
    records = [*one.turn().commands, failed, Settled("r/first", BEGAN_MS + 2)]
    live = one.turn(records)
    one.drop()
    assert said == [f"a detached task of run {RUN} (workflow) failed: mail failed after 1 attempt: refused"]
    again = Execution(body, BEGAN_MS, RUN)
    again.turn([*records, *live.commands])
    again.drop()
    assert len(said) == 1


def test_a_task_that_fails_and_that_nobody_awaits_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(execution.log, "warning", lambda text, *args: said.append(text % args))

    async def fails() -> None:
        raise ValueError("lost")

    async def body() -> None:
        asyncio.ensure_future(fails()).get_name()
        await wf.run("one", lambda: 1)
        await wf.run("two", lambda: 2)

    made = Execution(body, BEGAN_MS, RUN)
    (one,) = made.turn().commands
    made.drop()
    assert said == [f"in the body of run {made.identity}: Task exception was never retrieved: ValueError('lost')"]
    made = Execution(body, BEGAN_MS, RUN)
    two = made.turn([one, Settled(one.id, BEGAN_MS, b"1")]).commands
    made.drop()
    assert [command.name for command in two] == ["two"]
    assert len(said) == 1, "a replay says nothing that was said before"


def test_what_was_detached_is_cancelled_with_the_run() -> None:
    async def body() -> None:
        wf.detach(wf.sleep("30d"))
        await wf.sleep("1d")

    made = Execution(body, BEGAN_MS, RUN)
    first = made.turn()
    last = made.turn([*first.commands, CancelAsked(BEGAN_MS + 1)])
    assert last.state is State.CANCELLED
    assert sorted(last.abandoned) == ["r.1/sleep", "r/sleep"]
    made.drop()
