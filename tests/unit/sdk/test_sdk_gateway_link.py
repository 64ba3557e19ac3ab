"""A worker over a gateway's stream, in virtual time: what it says, what it keeps, how it comes back. The gateway here is the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.unit.sdk.played_gateway import PAYLOAD, Gateway, task, until

from stepmesh import Context, Worker
from stepmesh.departures import MESSAGE_BYTES, Departures
from stepmesh.pace import MOST, Pace
from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.pb.stepmesh.v1 import worker_pb2 as pb
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import ErrorCode, Failure, Result

pytestmark = pytest.mark.usefixtures("time_passes")


class Told:
    """What components saw."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.cancelled = 0


def make(told: Told, **options: Any) -> Worker:
    worker = Worker("cpu", **options)

    @worker.component
    async def noop(value: Any) -> Any:
        return value

    @worker.component
    async def slow(seconds: float, context: Context) -> float:
        told.begun.append(seconds)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            told.cancelled += 1
            raise
        return seconds

    @worker.component
    async def steps(count: int, context: Context) -> None:
        for number in range(count):
            context.heartbeat(number / count, number=number)
            await asyncio.sleep(3)

    @worker.component
    async def big(size: int) -> str:
        return "x" * (size - 2)

    return worker


@asynccontextmanager
async def at_work(**options: Any) -> AsyncIterator[tuple[Gateway, Worker, Told, asyncio.Task[None]]]:
    gateway, told = Gateway(), Told()
    worker = make(told, **options)
    run = asyncio.create_task(worker.run(gateway))
    try:
        yield gateway, worker, told, run
    finally:
        worker.stop()
        worker.stop()
        for stream in gateway.streams:
            stream.down.put_nowait(None)
        await asyncio.wait([run])


async def test_it_says_who_it_is_and_asks_for_as_much_as_it_has_room_for() -> None:
    async with at_work(concurrency=5, exclusive=True) as (gateway, _, _, _):
        stream = await gateway.stream()
        assert (stream.hello.pool, stream.hello.capacity, stream.hello.exclusive) == ("cpu", 5, True)
        assert [component.path for component in stream.hello.components] == ["/noop", "/slow", "/steps", "/big"]
        assert list(stream.hello.running) == []
        assert stream.credit == 0
        stream.welcome()
        await until(lambda: stream.credit == 5)


async def test_slow_tasks_are_not_taken_in_advance() -> None:
    async with at_work(concurrency=2) as (gateway, _, told, _):
        stream = await gateway.stream()
        stream.welcome()
        await until(lambda: stream.credit == 2)
        stream.tell(tasks=[task("a", input=b"5"), task("b", input=b"500")])
        await until(lambda: len(told.begun) == 2)
        await asyncio.sleep(1)
        assert stream.credit == 2
        await until(lambda: stream.credit >= 3)


async def test_quick_tasks_are_taken_in_advance() -> None:
    async with at_work(concurrency=2) as (gateway, _, _, _):
        stream = await gateway.stream()
        stream.welcome()
        for number in range(60):
            stream.tell(tasks=[task(f"t{number}", "/noop")])
            await until(lambda number=number: len(stream.results) == number + 1)
        assert stream.credit > 100


async def test_a_result_is_sent_again_on_every_stream_until_it_is_recorded() -> None:
    async with at_work() as (gateway, _, _, _):
        first = await gateway.stream(1)
        first.welcome()
        first.tell(tasks=[task("a", "/noop", b'{"z":1,"a":9223372036854775808}'), task("b", "/noop", b"2")])
        await until(lambda: len(first.results) == 2)
        assert {result.id: result.output for result in first.results} == {"a": b'{"z":1,"a":9223372036854775808}', "b": b"2"}
        first.tell(recorded=["b"])
        first.down.put_nowait(BrokerUnavailable("gone"))
        second = await gateway.stream(2)
        assert [result.id for result in second.results] == ["a"]
        second.down.put_nowait(BrokerUnavailable("gone"))
        third = await gateway.stream(3)
        assert [result.id for result in third.results] == ["a"]
        third.welcome()
        third.tell(recorded=["a"])
        third.down.put_nowait(BrokerUnavailable("gone"))
        assert not (await gateway.stream(4)).results


async def test_what_runs_goes_on_without_a_stream_and_what_waits_is_dropped() -> None:
    async with at_work(concurrency=1) as (gateway, _, told, _):
        first = await gateway.stream(1)
        first.welcome()
        first.tell(tasks=[task("a", input=b"10"), task("b", input=b"11")])
        await until(lambda: told.begun == [10.0])
        first.down.put_nowait(BrokerUnavailable("gone"))
        second = await gateway.stream(2)
        assert list(second.hello.running) == ["a"]
        second.welcome()
        await until(lambda: second.results)
        assert [result.id for result in second.results] == ["a"]
        assert told.begun == [10.0]
        assert not second.returned


async def test_it_goes_to_the_next_gateway_when_one_does_not_answer() -> None:
    async with at_work() as (gateway, _, _, _):
        first = await gateway.stream(1)
        first.welcome()
        await until(lambda: first.credit)
        first.down.put_nowait(BrokerUnavailable("gone"))
        second = await gateway.stream(2)
        assert not second.elsewhere
        second.down.put_nowait(BrokerUnavailable("not there"))
        third = await gateway.stream(3)
        assert third.elsewhere


async def test_a_stop_reaches_the_component_and_nobody_hears_of_its_end() -> None:
    async with at_work() as (gateway, _, told, _):
        stream = await gateway.stream()
        stream.welcome()
        stream.tell(tasks=[task("a", input=b"500"), task("b", input=b"600")])
        await until(lambda: len(told.begun) == 2)
        stream.tell(stops=[pb.Stop(id="a", reason=pb.Stop.CANCELLED), pb.Stop(id="unknown", reason=pb.Stop.ELSEWHERE)])
        await until(lambda: told.cancelled == 1)
        await asyncio.sleep(5)
        assert not stream.results
        assert not stream.returned


async def test_a_time_limit_is_kept() -> None:
    async with at_work() as (gateway, _, _, _):
        stream = await gateway.stream()
        stream.welcome()
        stream.tell(tasks=[task("a", input=b"500", timeout_ms=700)])
        await until(lambda: stream.results)
        assert stream.results[0].failure.code == ErrorCode.TIMEOUT


async def test_the_gateway_s_payload_limit_counts() -> None:
    async with at_work() as (gateway, _, _, _):
        stream = await gateway.stream()
        stream.welcome()
        stream.tell(tasks=[task("fits", "/big", str(PAYLOAD).encode()), task("over", "/big", str(PAYLOAD + 1).encode())])
        await until(lambda: len(stream.results) == 2)
        fits, over = sorted(stream.results, key=lambda result: result.id)
        assert len(fits.output) == PAYLOAD
        assert over.failure.code == ErrorCode.WORKER_ERROR
        assert f"{PAYLOAD + 1} bytes" in over.failure.message


async def test_progress_is_told_when_it_changed() -> None:
    async with at_work() as (gateway, _, _, _):
        stream = await gateway.stream()
        stream.welcome()
        stream.tell(tasks=[task("a", "/steps", b"4")])
        await until(lambda: stream.results)
        assert [round(told.fraction, 2) for told in stream.progress] == [0.0, 0.25, 0.5, 0.75]
        assert stream.progress[1].details == b'{"number":1}'


async def test_a_worker_without_tasks_gives_signs_of_life() -> None:
    async with at_work() as (gateway, _, _, _):
        stream = await gateway.stream()
        stream.welcome(heartbeat_ms=1000)
        await until(lambda: stream.credit)
        said = len(stream.said)
        await asyncio.sleep(5)
        assert len(stream.said) - said >= 5


async def test_a_task_that_waits_while_all_slots_are_taken_goes_back() -> None:
    async with at_work(concurrency=1) as (gateway, _, told, _):
        stream = await gateway.stream()
        stream.welcome()
        stream.tell(tasks=[task("a", input=b"500"), task("b", input=b"1")])
        await until(lambda: stream.returned)
        assert stream.returned == ["b"]
        assert told.begun == [500.0]


async def test_what_waited_while_the_process_stood_still_is_handed_back(time_passes: None) -> None:
    loop: Any = asyncio.get_running_loop()
    async with at_work(concurrency=1) as (gateway, _, told, _):
        stream = await gateway.stream()
        stream.welcome()
        stream.tell(tasks=[task("a", input=b"0.5"), task("b", input=b"1")])
        await until(lambda: told.begun)
        loop._selector.now += 30  # a SIGSTOP, say: both are with somebody else by now
        await until(lambda: stream.returned)
        assert stream.returned == ["b"]
        assert [result.id for result in stream.results] == ["a"]


async def test_a_gateway_that_goes_away_gets_back_what_waits_and_hears_what_ends_soon() -> None:
    async with at_work(concurrency=2) as (gateway, _, told, _):
        first = await gateway.stream(1)
        first.welcome()
        first.tell(tasks=[task("soon", input=b"1"), task("long", input=b"60"), task("waits", input=b"2")])
        await until(lambda: len(told.begun) == 2)
        credit = first.credit
        first.tell(drain=True)
        await until(lambda: first.returned == ["waits"])
        await until(lambda: [result.id for result in first.results] == ["soon"])
        first.tell(tasks=[task("late")])
        await until(lambda: first.returned == ["waits", "late"])
        await until(lambda: first.finished)
        assert first.credit == credit
        first.tell(recorded=["soon"])
        first.down.put_nowait(None)
        second = await gateway.stream(2)
        assert second.elsewhere
        assert list(second.hello.running) == ["long"]
        assert not second.results


async def test_it_leaves_when_all_is_recorded() -> None:
    async with at_work(concurrency=1) as (gateway, worker, told, run):
        stream = await gateway.stream()
        stream.welcome()
        stream.tell(tasks=[task("a", input=b"5"), task("b", input=b"5")])
        await until(lambda: told.begun)
        worker.stop()
        await until(lambda: any(message.leaving for message in stream.said))
        await until(lambda: stream.returned == ["b"])
        stream.tell(tasks=[task("late")])
        await until(lambda: stream.returned == ["b", "late"])
        await until(lambda: stream.results)
        assert not stream.finished
        stream.tell(recorded=["a"])
        await until(lambda: stream.finished)
        stream.down.put_nowait(None)
        await asyncio.wait_for(run, 5)


async def test_a_stream_that_breaks_while_it_leaves_is_opened_again_for_the_results() -> None:
    async with at_work() as (gateway, worker, told, run):
        first = await gateway.stream(1)
        first.welcome()
        first.tell(tasks=[task("a", input=b"3")])
        await until(lambda: told.begun)
        worker.stop()
        first.down.put_nowait(BrokerUnavailable("gone"))
        second = await gateway.stream(2)
        second.welcome()
        await until(lambda: second.results)
        assert any(message.leaving for message in second.said)
        assert second.credit == 0
        second.tell(recorded=["a"])
        await until(lambda: second.finished)
        second.down.put_nowait(None)
        await asyncio.wait_for(run, 5)


async def test_it_leaves_within_its_grace_although_no_gateway_answers() -> None:
    async with at_work(drain_grace_s=10.0) as (gateway, worker, told, run):
        first = await gateway.stream(1)
        first.welcome()
        first.tell(tasks=[task("a", input=b"2")])
        await until(lambda: told.begun)
        first.down.put_nowait(BrokerUnavailable("gone"))
        worker.stop()
        await asyncio.wait_for(run, 11)


async def test_a_refusal_ends_the_worker_and_says_why() -> None:
    gateway = Gateway()
    run = asyncio.create_task(make(Told()).run(gateway))
    stream = await gateway.stream()
    stream.down.put_nowait(BrokerError("this gateway serves another namespace", code="SM-7302"))
    with pytest.raises(BrokerError) as caught:
        await run
    assert caught.value.code == "SM-7302"


async def test_components_that_come_are_told_at_once() -> None:
    async with at_work() as (gateway, worker, _, _):
        stream = await gateway.stream()
        stream.welcome()
        await until(lambda: stream.credit)

        @worker.component
        async def more() -> None:
            """One more."""

        worker.announce()
        await until(lambda: stream.said[-1].HasField("hello"))
        assert "/more" in [component.path for component in stream.said[-1].hello.components]


# --- the parts ------------------------------------------------------------------------------------------------


def ended(output: bytes = b"1", failure: Failure | None = None) -> Result:
    return Result(RunId("r"), 0, 0, 1, None if failure else output, failure)


async def test_a_message_holds_about_a_megabyte_and_a_larger_result_travels_alone() -> None:
    out = Departures()
    sizes = [MESSAGE_BYTES // 2 - 200] * 3 + [3 * MESSAGE_BYTES, 10]
    for number, size in enumerate(sizes):
        out.result(f"t{number}", ended(b"x" * size))
    messages = []
    while (message := out.next(0)) is not None:
        messages.append([result.id for result in message.results])
    assert messages == [["t0", "t1"], ["t2"], ["t3"], ["t4"]]
    assert len(out.unrecorded) == 5


async def test_a_failure_keeps_code_data_and_the_wish_for_a_pause() -> None:
    out = Departures()
    out.result("a", ended(failure=Failure(8, "no", b'{"z":1}', 0)))
    out.result("b", ended(failure=Failure(3, "never", None, None)))
    message = out.next(7)
    assert message is not None
    assert message.credit == 7
    first, second = (result.failure for result in message.results)
    assert (first.code, first.message, first.data, first.HasField("retry_after_ms")) == (8, "no", b'{"z":1}', True)
    assert (second.data, second.HasField("retry_after_ms")) == (b"", False)


def test_the_pace_follows_what_tasks_take() -> None:
    pace = Pace(4)
    assert pace.ahead(quick=True) == 0
    for _ in range(100):
        pace.observe(10)
    assert pace.ahead(quick=True) == MOST
    for _ in range(100):
        pace.observe(5_000)
    assert 3 <= pace.ahead(quick=True) <= 4
    assert 12 <= pace.ahead(quick=False) <= 16
    for _ in range(100):
        pace.observe(1_000_000)
    assert pace.ahead(quick=False) == 0
