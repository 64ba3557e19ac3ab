"""Turns of durable functions at the door of a shard: what no message can carry is said, not waited for."""

from __future__ import annotations

from tests.unit.orchestrator.runtime.lab import ONE_STEP, W1, Lab, js, ref, virtual

from stepmesh_broker.memory import MemoryBus
from stepmesh_broker.protocol.functions import FunctionsTurned, FunctionTurn, FunctionTurned, FunctionTurns
from stepmesh_broker.protocol.histories import Began, Issued, Kind, Settled
from stepmesh_broker.protocol.messages import Task

LIMIT = 80_000
TWICE = {"name": "twice", "steps": [], "output": [{"$input": "$"}, {"$input": "$"}]}


async def turned(lab: Lab, task: Task, turn: FunctionTurn) -> FunctionTurned:
    answer = await lab.control(FunctionTurns(W1, [turn]))
    assert isinstance(answer, FunctionsTurned)
    (one,) = answer.answers
    assert one is not None
    return one


@virtual
async def test_a_result_that_no_answer_can_carry_fails_the_function() -> None:
    lab = await Lab(bus=MemoryBus(max_message_bytes=LIMIT)).start()
    twice = await lab.flow(TWICE)
    for size, is_sent in ((LIMIT // 2 - 4_000, True), (LIMIT // 2, False)):
        run = await lab.submit(ONE_STEP)
        (task,) = await lab.take()
        child = Issued("r/twice", Kind.CHILD, f"flow://{twice}", "", js("x" * size), "orders.py:7")
        assert (await turned(lab, task, FunctionTurn(ref(task), 1, 1, 0, [Began(0), child]))).records is None
        answer = await turned(lab, task, FunctionTurn(ref(task), 1, 2, 2, idle=True))
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
