"""Durable functions of a worker over a gateway's stream, in virtual time: gateway and shard are the test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.unit.sdk.played_gateway import Gateway, Stream, task, until

from stepmesh import App, Worker, wf
from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.pb.stepmesh.v1 import worker_pb2 as pb
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.functions import FunctionsTurned, FunctionTurn, FunctionTurned, FunctionTurns
from stepmesh_broker.protocol.histories import Began, Issued, Kind, Record, Settled, encode_records
from stepmesh_broker.protocol.ids import Namespace, Partition, RunId
from stepmesh_broker.protocol.messages import ErrorCode, Refused, Task
from stepmesh_broker.protocol.queries import QueryAnswer, QueryTask
from stepmesh_broker.protocol.subjects import Subject

pytestmark = pytest.mark.usefixtures("time_passes")
TURN_BYTES = 500_000


class Shard(Gateway):
    """Its requests are turns of one function."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Record] = []
        self.asked: list[tuple[Subject, FunctionTurns]] = []
        self.away = False

    async def request(self, subject: Subject, data: bytes, timeout_s: float) -> bytes:
        if self.away:
            raise BrokerUnavailable("this gateway is away")
        message = codec.decode_control(data)
        assert isinstance(message, FunctionTurns)
        self.asked.append((subject, message))
        return codec.encode(FunctionsTurned([self._answer(turn) for turn in message.turns]))

    def _answer(self, turn: FunctionTurn) -> FunctionTurned:
        own = turn.base == len(self.history)
        self.history += turn.records
        return FunctionTurned(at_ms=7, records=None if own and turn.number else self.history[turn.base :], left=turn.idle and own)

    @property
    def turns(self) -> list[FunctionTurn]:
        return [turn for _, message in self.asked for turn in message.turns]


def worker_of(release: asyncio.Event, done: list[str]) -> Worker:
    app = App("orders")

    @app.step
    async def note(what: str) -> str:
        done.append(what)
        return what

    @app.step
    async def long(what: str) -> str:
        await release.wait()
        return what

    @app.workflow
    async def order(name: str) -> str:
        @wf.query
        def state() -> str:
            return name

        @wf.query
        def much(size: int) -> str:
            return "x" * size

        first = await note(name)
        await wf.wait_for_event("paid", name)
        return first

    @app.workflow
    async def slow(name: str) -> list[Any]:
        return [*await asyncio.gather(long(name), wf.wait_for_event("paid", name))]

    worker = app.worker(concurrency=1)

    @worker.component
    async def plain(value: Any) -> Any:
        return value

    return worker


@asynccontextmanager
async def at_work() -> AsyncIterator[tuple[Shard, asyncio.Event, list[str]]]:
    shard, release, done = Shard(), asyncio.Event(), list[str]()
    worker = worker_of(release, done)
    run = asyncio.create_task(worker.run(shard))
    try:
        yield shard, release, done
    finally:
        worker.stop()
        worker.stop()
        for stream in shard.streams:
            stream.down.put_nowait(None)
        await asyncio.wait([run])


def activation(id: str, component: str = "/order", history: list[Record] | None = None, **more: Any) -> pb.Task:
    found = history or []
    given = pb.Activation(journal="j", at_ms=5, records=len(found), history=encode_records(found) if found else b"", **more)
    return task(id, component, b'"ann"', partition=3, activation=given)


async def welcomed(shard: Shard, number: int = 1) -> Stream:
    stream = await shard.stream(number)
    stream.welcome(turn_bytes=TURN_BYTES)
    return stream


async def test_it_says_which_components_are_functions() -> None:
    async with at_work() as (shard, _, _):
        stream = await shard.stream()
        assert {one.path: one.function for one in stream.hello.components} == {"/order": True, "/slow": True, "/plain": False}
        assert {one.path: bool(one.version) for one in stream.hello.components} == {"/order": True, "/slow": True, "/plain": False}
        assert stream.hello.message_bytes == shard.max_message_bytes


async def test_turns_are_told_to_the_owner_of_the_run_and_one_that_waits_gives_its_slot_back() -> None:
    async with at_work() as (shard, _, done):
        stream = await welcomed(shard)
        await until(lambda: stream.credit == 1)
        stream.tell(tasks=[activation("a")])
        await until(lambda: stream.idle == ["a"])
        assert done == ["ann"]
        assert {subject for subject, _ in shard.asked} == {subjects.control(Namespace("default"), Partition(3))}
        assert {(message.worker, message.answer_bytes) for _, message in shard.asked} == {(stream.hello.worker, TURN_BYTES)}
        await until(lambda: stream.credit == 2)
        stream.tell(tasks=[activation("b", history=list(shard.history))])
        shard.history.append(Settled("r/paid", 9))
        await until(lambda: stream.results)
        assert [(result.id, result.output) for result in stream.results] == [("b", b'"ann"')]
        assert done == ["ann"]


async def test_what_came_with_the_task_is_taken_for_all_there_is_only_where_it_is_fresh() -> None:
    async with at_work() as (shard, _, done):
        stream = await welcomed(shard)
        shard.history = [Began(5)]
        stream.tell(tasks=[activation("a")])
        await until(lambda: stream.idle == ["a"])
        assert [(turn.number, turn.base) for turn in shard.turns][:2] == [(0, 0), (1, 1)]
        asked = len(shard.turns)
        shard.history.append(Settled("r/paid", 9))
        stream.tell(tasks=[activation("b", history=list(shard.history), fresh=True)])
        await until(lambda: stream.results)
        assert len(shard.turns) == asked, "it had all"
        assert sum(isinstance(record, Began) for record in shard.history) == 1
        assert done == ["ann"]


async def test_news_and_a_new_stream_make_a_running_function_ask() -> None:
    async with at_work() as (shard, release, _):
        first = await welcomed(shard)
        first.tell(tasks=[activation("a", "/slow")])
        await until(lambda: len(shard.history) == 3)
        before = len(shard.turns)
        first.tell(news=["a", "unknown"])
        await until(lambda: len(shard.turns) > before)
        await asyncio.sleep(5)
        before = len(shard.turns)
        first.down.put_nowait(BrokerUnavailable("gone"))
        second = await welcomed(shard, 2)
        assert list(second.hello.running) == ["a"]
        await until(lambda: len(shard.turns) > before)
        release.set()
        (asked,) = [record for record in shard.history if isinstance(record, Issued) and record.kind is Kind.EVENT]
        shard.history.append(Settled(asked.id, 9, b"1"))
        await until(lambda: second.results)
        assert second.results[0].output == b'["ann",1]'


async def test_turns_wait_while_no_gateway_is_there() -> None:
    async with at_work() as (shard, _, done):
        stream = await welcomed(shard)
        shard.away = True
        stream.tell(tasks=[activation("a")])
        await asyncio.sleep(30)
        assert not stream.idle
        shard.away = False
        await until(lambda: stream.idle == ["a"])
        assert done == ["ann"]


async def test_a_gateway_that_passes_no_turns_on_is_told_of() -> None:
    async with at_work() as (shard, _, done):
        stream = await shard.stream()
        stream.welcome()
        stream.tell(tasks=[activation("a")])
        await until(lambda: stream.results)
        assert stream.results[0].failure.code == ErrorCode.COMPONENT_FAILED
        assert stream.results[0].failure.message.startswith("SM-1023 /order is a durable function")
        assert "upgrade the gateways" in stream.results[0].failure.message
        assert not done


async def test_a_question_is_answered_on_its_stream_within_the_limit() -> None:
    async with at_work() as (shard, _, done):
        stream = await welcomed(shard)
        history = encode_records([Began(5, "")])
        asked = [
            codec.encode(QueryTask(Task(RunId("r"), 0, 0, 1, 1, "s", "/order", b'"ann"', at_ms=5, history=history), "j", *query))
            for query in (("state", b"{}"), ("much", b"300000"), ("much", str(TURN_BYTES).encode()), ("none", b"{}"))
        ]
        stream.tell(questions=[pb.Question(number=7 + place, question=data) for place, data in enumerate(asked)])
        await until(lambda: len(stream.answers) == len(asked))
        found = {one.number: codec.decode_api_answer(one.answer) for one in stream.answers}
        assert found[7] == QueryAnswer(b'"ann"')
        assert found[8] == QueryAnswer(b'"' + b"x" * 300_000 + b'"')
        refused = [one.code for one in (found[9], found[10]) if isinstance(one, Refused)]
        assert refused == ["SM-5135", "SM-1072"]
        assert max(len(message.answers) for message in stream.said) == 1
        assert (done, shard.turns) == ([], [])


async def test_a_body_that_stays_alive_goes_on_from_the_news() -> None:
    async with at_work() as (shard, _, done):
        stream = await welcomed(shard)
        stream.tell(tasks=[activation("a", fresh=True)])
        await until(lambda: stream.idle == ["a"])
        asked, driver, seen = len(shard.turns), shard.turns[-1].driver, len(shard.history)
        shard.history.append(Settled("r/paid", 9))
        given = {"driver": driver, "seen": seen, "news": encode_records([shard.history[-1]]), "fresh": True}
        again = activation("b")
        again.activation.MergeFrom(pb.Activation(records=seen + 1, **given))
        stream.tell(tasks=[again])
        await until(lambda: stream.results)
        assert stream.results[0].output == b'"ann"'
        assert (len(shard.turns), done) == (asked, ["ann"]), "nothing was asked for, and nothing done again"
