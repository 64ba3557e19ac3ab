"""Turns of durable functions at the door of a shard: what no message can carry is said, not waited for; and which worker has which code."""

from __future__ import annotations

import pytest
from tests.unit.orchestrator.runtime.lab import ONE_STEP, W1, W2, Lab, js, ref, until, virtual

from stepmesh_broker.memory import MemoryBus
from stepmesh_broker.protocol import api, subjects
from stepmesh_broker.protocol.codec import encode
from stepmesh_broker.protocol.functions import FunctionsTurned, FunctionTurn, FunctionTurned, FunctionTurns
from stepmesh_broker.protocol.histories import Began, Issued, Kind, Settled, size_of
from stepmesh_broker.protocol.ids import Pool, RunId, WorkerId
from stepmesh_broker.protocol.messages import ComponentInfo, ErrorCode, Failure, Hello, Task
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
    assert f"of step 'saga', item 0, of run {run}. It began on build 3+4f2c1e and stands at r/nap (orders.py:31)" in text
    assert "Likely cause: a deployment without it, or under another name. Near to it: /sagas." in text
    assert "pool gpu (1 worker): no functions; pool py (1 worker): /sagas 1+9a77d0." in text
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
