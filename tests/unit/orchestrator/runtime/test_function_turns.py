"""Turns of durable functions at the door of a shard: what no message can carry is said, not waited for; and which worker has which code."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import ONE_STEP, W1, W2, Lab, js, ref, until, virtual

from stepmesh_broker.memory import MemoryBus
from stepmesh_broker.protocol import api, subjects
from stepmesh_broker.protocol.codec import decode_task_frame, encode
from stepmesh_broker.protocol.functions import FunctionsTurned, FunctionTurn, FunctionTurned, FunctionTurns
from stepmesh_broker.protocol.histories import Began, CancelAsked, Issued, Kind, Record, Settled, size_of
from stepmesh_broker.protocol.ids import Pool, RunId, WorkerId
from stepmesh_broker.protocol.messages import ComponentInfo, ErrorCode, Failure, Hello, Task, Verdict
from stepmesh_broker.protocol.pools import ListPools, Pools
from stepmesh_orchestrator.core import decide as deciding
from stepmesh_orchestrator.core.commands import EndTask
from stepmesh_orchestrator.runtime.functions import OVERHEAD_BYTES

SAGA = {"steps": [{"id": "saga", "component": "/py/saga", "input": {"$input": "$"}}], "output": {"$step": "saga"}}
LIMIT = 80_000
TWICE = {"name": "twice", "steps": [], "output": [{"$input": "$"}, {"$input": "$"}]}


async def turned(lab: Lab, task: Task, turn: FunctionTurn, answer_bytes: int = 0) -> FunctionTurned:
    answer = await lab.control(FunctionTurns(W1, [turn], answer_bytes=answer_bytes))
    assert isinstance(answer, FunctionsTurned)
    (one,) = answer.answers
    assert one is not None
    return one


@virtual
@pytest.mark.parametrize(("broker_bytes", "answer_bytes"), [(LIMIT, 0), (LIMIT, 2 * LIMIT), (4 * LIMIT, LIMIT)])
async def test_a_result_that_no_answer_can_carry_fails_the_function(broker_bytes: int, answer_bytes: int) -> None:
    """Of the broker, and of a gateway before it."""
    lab = await Lab(bus=MemoryBus(max_message_bytes=broker_bytes)).start()
    twice = await lab.flow(TWICE)
    for size, is_sent in ((LIMIT // 2 - 4_000, True), (LIMIT // 2, False)):
        run = await lab.submit(ONE_STEP)
        (task,) = await lab.take()
        child = Issued("r/twice", Kind.CHILD, f"flow://{twice}", "", js("x" * size), "orders.py:7")
        assert (await turned(lab, task, FunctionTurn(ref(task), 1, 1, 0, [Began(0), child]))).records is None
        answer = await turned(lab, task, FunctionTurn(ref(task), 1, 2, 2, idle=True), answer_bytes)
        assert answer.gone is not is_sent
        if is_sent:
            assert answer.records is not None
            assert isinstance(answer.records[0], Settled)
            await lab.finish(task)
            assert (await lab.result(run))["outcome"] == "success"
        else:
            error = (await lab.result(run))["error"]
            assert error["code"] == "INVALID_INPUT"
            assert "r/twice" in error["message"]
    await lab.stop()


@virtual
async def test_a_turn_of_another_worker_is_told_who_has_the_activation() -> None:
    lab = await Lab().start()
    await lab.submit(SAGA)
    (task,) = await lab.take()
    await lab.claim(task, W2)
    answer = await turned(lab, task, FunctionTurn(ref(task), 1, 1, 0, [Began(0)]))
    assert (answer.gone, answer.why, answer.activation, answer.known) == (True, "worker w2 has this activation", 1, 0)
    await lab.stop()


async def child(lab: Lab, asked: str) -> Settled:
    """What comes of a child of this name."""
    await lab.submit(SAGA)
    (task,) = await lab.take()
    one = Issued("r/twice", Kind.CHILD, asked, "", js(1), "orders.py:7")
    await turned(lab, task, FunctionTurn(ref(task), 1, 1, 0, [Began(0), one]))
    records: list[Record] = []
    while not records:
        await asyncio.sleep(0.1)
        records = (await turned(lab, task, FunctionTurn(ref(task), 1, 0, 2))).records or []
    (settled,) = records
    assert isinstance(settled, Settled)
    return settled


@virtual
async def test_a_child_is_found_by_its_name_and_version_as_they_are_then() -> None:
    lab = await Lab().start()
    await lab.flow({**TWICE, "version": "2"})
    assert (await child(lab, "flow://twice@2")).value == b"[1,1]"
    await asyncio.sleep(1)
    await lab.flow({**TWICE, "version": "2", "output": "another"})
    assert (await child(lab, "flow://twice@2")).value == b'"another"', "what is stored last counts for the next one"
    failure = (await child(lab, "flow://twice@3")).failure
    assert failure is not None
    assert "SM-1042 there is no flow 'twice' of version '3'; versions of 'twice' that are stored: 2" in failure.message
    await lab.stop()


@virtual
async def test_a_step_that_takes_a_flow_by_id_takes_none_by_name() -> None:
    lab = await Lab().start()
    await lab.flow({**TWICE, "version": "2"})
    step = {"id": "it", "component": "/builtin/eval", "input": {"flow_id": "twice@2", "input": 1}}
    run = await lab.submit({"name": "by id", "steps": [step], "output": {"$step": "it"}})
    assert (await lab.result(run))["outcome"] == "failed"
    await lab.stop()


# --- builds --------------------------------------------------------------------------------------------------------------


async def hello(lab: Lab, worker: WorkerId, *offers: ComponentInfo, pool: str = "py") -> None:
    await lab.client.send(subjects.presence(lab.namespace), encode(Hello(worker, Pool(pool), 8, "1", list(offers))))


async def began(lab: Lab, version: str = "3+4f2c1e") -> RunId:
    """A run of a function that sleeps for five seconds, and is with its pool again."""
    run = await lab.submit(SAGA)
    (task,) = await lab.take()
    nap = Issued("r/nap", Kind.TIMER, "nap", "", js({"due_ms": lab.clock.now_ms() + 5_000}), "orders.py:31")
    assert (await turned(lab, task, FunctionTurn(ref(task), 1, 1, 0, [Began(0, version), nap], idle=True))).left
    return run


async def explained(lab: Lab, run: RunId) -> str:
    return " ".join((await lab.ask(api.Explain(run), api.Explained)).lines)


@virtual
async def test_a_workflow_that_no_worker_has_is_blocked_and_tells_all() -> None:
    lab = await Lab().start()
    await hello(lab, W1, ComponentInfo("/sagas", version="1+9a77d0"), ComponentInfo("/plain"))
    await hello(lab, W2, pool="gpu")
    run = await began(lab)
    (task,) = await lab.take(timeout_s=30)
    await lab.finish(task, failure=Failure(ErrorCode.COMPONENT_NOT_FOUND, "no component /saga"))
    await until(lambda: not lab.shard.dispatcher.leases.flights)
    text = await explained(lab, run)
    assert "is blocked, and tried again in 10 s: SM-1040 no worker of pool py that was asked has the workflow /py/saga" in text
    assert f"of step 'saga', item 0, of run {run}. It belongs to build 3+4f2c1e and stands at r/nap (orders.py:31)" in text
    assert "Likely cause: a deployment without it, or under another name. Near to it: /sagas." in text
    assert "pool gpu (1 worker): no functions; pool py (1 worker): /sagas 1+9a77d0." in text
    assert "; it belongs to build 3+4f2c1e; builds that live workers have: none" in text
    assert "start a worker that has it, of that build where one is named: `stepmesh worker FILE`" in text
    await lab.stop()


@virtual
async def test_a_component_that_no_worker_has_fails_as_ever() -> None:
    lab = await Lab().start()
    run = await lab.submit(SAGA)
    await lab.finish(*await lab.take(), failure=Failure(ErrorCode.COMPONENT_NOT_FOUND, "no component /saga"))
    assert (await lab.result(run))["error"]["message"] == "no component /saga"
    await lab.stop()


@virtual
async def test_a_result_is_as_large_as_the_way_to_the_worker_carries_to_the_byte() -> None:
    lab = await Lab().start()
    twice = await lab.flow(TWICE)
    text = js("x" * 30_000)
    room = size_of(Settled("r/twice", 0, b"[" + text + b"," + text + b"]")) + OVERHEAD_BYTES
    for answer_bytes, is_sent in ((room, True), (room - 1, False)):
        await lab.submit(ONE_STEP)
        (task,) = await lab.take()
        child = Issued("r/twice", Kind.CHILD, f"flow://{twice}", "", text, "orders.py:7")
        await turned(lab, task, FunctionTurn(ref(task), 1, 1, 0, [Began(0), child]))
        answer = await turned(lab, task, FunctionTurn(ref(task), 1, 2, 2, idle=True), answer_bytes)
        assert answer.gone is not is_sent
        await lab.finish(task)
    await lab.stop()


@virtual
async def test_an_answer_has_as_many_records_as_the_way_to_the_worker_carries() -> None:
    lab = await Lab().start()
    await lab.submit(ONE_STEP)
    (task,) = await lab.take()
    notes = [Issued(f"r/note#{n}", Kind.EFFECT, "note", "", js("x" * 10_000), "orders.py:7") for n in range(10)]
    await turned(lab, task, FunctionTurn(ref(task), 1, 1, 0, notes))
    size = size_of(notes[0])
    for fitting in (4, 5):
        for short in (0, 1):
            answer = await turned(lab, task, FunctionTurn(ref(task), 1, 0, 0), fitting * size + OVERHEAD_BYTES - short)
            assert (answer.more, len(answer.records or ())) == (True, fitting - short)
    found = await turned(lab, task, FunctionTurn(ref(task), 1, 0, 0), 10 * size + OVERHEAD_BYTES)
    assert (found.more, len(found.records or ())) == (False, 10)
    await lab.stop()


def asks(task: Task, version: str) -> FunctionTurn:
    """Who would go on with a history asks for it first."""
    return FunctionTurn(ref(task), 7, 0, 0, version=version)


class Home:
    """What a worker is handed beside the frames of its pool."""

    def __init__(self, lab: Lab, worker: WorkerId = W2) -> None:
        self.lab, self.worker, self.tasks = lab, worker, list[Task]()

    async def __aenter__(self) -> Home:
        self._listening = await self.lab.client.listen(subjects.worker(self.lab.namespace, Pool("py"), self.worker), self._hear)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._listening.close()

    async def _hear(self, data: bytes) -> None:
        self.tasks += decode_task_frame(data).tasks


@virtual
async def test_a_task_goes_to_the_worker_whose_code_the_run_belongs_to() -> None:
    lab = await Lab().start()
    await hello(lab, W1, ComponentInfo("/saga", version="4+9a77d0"))
    await hello(lab, W2, ComponentInfo("/saga", version="3+4f2c1e"))
    run = await began(lab)
    (task,) = await lab.take(timeout_s=30)
    await lab.claim(task, W1)
    async with Home(lab) as home:
        answer = await turned(lab, task, asks(task, "4+9a77d0"))
        assert (answer.gone, answer.why) == (True, "worker w2 has the code that the run belongs to, and gets it")
        await until(lambda: bool(home.tasks))
    (handed,) = home.tasks
    assert (handed.attempt, handed.dispatch, handed.claim_first, handed.history, handed.news) == (2, 2, True, b"", b"")
    assert await lab.claim(handed, W2) is Verdict.GRANTED, "the lease of the other one is gone"
    answer = await lab.control(FunctionTurns(W2, [asks(handed, "3+4f2c1e")]))
    assert [type(record) for record in answer.answers[0].records] == [Began, Issued, Settled]
    assert "belongs to build 3+4f2c1e; builds that live workers have: 3+4f2c1e (1), 4+9a77d0 (1)" in await explained(lab, run)
    await lab.stop()


@virtual
async def test_what_is_handed_over_and_lost_goes_to_the_pool_again() -> None:
    lab = await Lab().start()
    await hello(lab, W2, ComponentInfo("/saga", version="3+4f2c1e"))
    await began(lab)
    (task,) = await lab.take(timeout_s=30)
    assert (await turned(lab, task, asks(task, "4+9a77d0"))).gone
    (again,) = await lab.take(timeout_s=10)
    assert (again.attempt, again.dispatch) == (task.attempt, 2)
    await lab.stop()


@virtual
async def test_a_worker_with_other_code_goes_on_where_nobody_has_the_right_one() -> None:
    lab = await Lab().start()
    await hello(lab, W1, ComponentInfo("/saga", version="4+9a77d0"))
    await began(lab)
    (task,) = await lab.take(timeout_s=30)
    await until(lambda: not lab.node.presence.is_young)
    answer = await turned(lab, task, asks(task, "4+9a77d0"))
    assert not answer.gone
    new = Issued("r/a", Kind.CALL, "/py/a", "", js(1), "orders.py:9")
    await turned(lab, task, FunctionTurn(ref(task), 7, 1, 3, [new], idle=True, version="4+9a77d0"))
    await hello(lab, W2, ComponentInfo("/saga", version="3+4f2c1e"))
    assert lab.shard.session.state.runs[task.run].items[0].function(0).pinned() == "4+9a77d0", "what it issued belongs to its code"
    await lab.stop()


@virtual
async def test_just_after_a_start_the_right_worker_is_waited_for() -> None:
    lab = await Lab().start()
    await began(lab)
    (task,) = await lab.take(timeout_s=30)
    await lab.restart()
    answer = await lab.control(FunctionTurns(W1, [asks(task, "4+9a77d0")]))
    assert answer.answers == [None], "it asks again, and the others are heard meanwhile"
    await hello(lab, W2, ComponentInfo("/saga", version="3+4f2c1e"))
    assert (await turned(lab, task, asks(task, "4+9a77d0"))).why == "worker w2 has the code that the run belongs to, and gets it"
    await lab.restart()
    await until(lambda: not lab.node.presence.is_young)
    assert not (await turned(lab, task, asks(task, "4+9a77d0"))).gone
    await lab.stop()


@virtual
async def test_a_worker_that_goes_is_handed_nothing_more() -> None:
    lab = await Lab().start()
    await hello(lab, W1, ComponentInfo("/saga", version="3+4f2c1e"))
    presence = lab.node.presence
    await until(lambda: presence.having("py", "/saga") == {"3+4f2c1e": [W1]})
    assert (await lab.ask(ListPools(), Pools)).pools[0].workers[0].functions == {"/saga": "3+4f2c1e"}
    await hello(lab, W1, ComponentInfo("/saga"))
    await until(lambda: not presence.having("py", "/saga"))
    assert presence.workers("py") == 1
    await lab.stop()


@virtual
async def test_a_defect_costs_a_function_its_run_also_while_it_cleans_up(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = await Lab().start()
    run = await lab.submit(SAGA)
    (task,) = await lab.take()
    await turned(lab, task, FunctionTurn(ref(task), 1, 1, 0, [Began(0)]))

    def brittle(session: Any, command: EndTask) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setitem(deciding._DECIDERS, EndTask, brittle)  # type: ignore[reportPrivateUsage]
    await lab.finish(task)
    answer = await turned(lab, task, FunctionTurn(ref(task), 1, 2, 1))
    assert [type(record) for record in answer.records or ()] == [CancelAsked], "it may clean up"
    await lab.finish(task)
    assert (await lab.ended(run)).summary.status == "cancelled"
    assert lab.shard.counters.quarantined == 2
    await lab.stop()
