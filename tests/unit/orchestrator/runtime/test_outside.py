"""Events and answers through a shard's doors: whoever waits is found, in memory or not, before and after a crash, and once."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import Lab, js, run_id, until, virtual

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import Namespace, Partition, RunId, home_of, partition_of
from stepmesh_broker.protocol.messages import Accepted, Cancel, EventKept, Refused, SendEvent, SettleToken
from stepmesh_broker.protocol.tokens import read_token
from stepmesh_orchestrator.core.addresses import Place
from stepmesh_orchestrator.core.decide import dormancy, waits

PARTITIONS = 4
N = Namespace("default")


def flow(component: str = "wait_for_event", **input: Any) -> dict[str, Any]:
    given = {"name": "paid", "key": "o1", **input} if component == "wait_for_event" else input
    return {"name": "wait", "steps": [{"id": "w", "component": f"/builtin/{component}", "input": given}], "output": {"$step": "w"}}


async def lab_of() -> Lab:
    return await Lab(partitions=PARTITIONS).start()


async def send(lab: Lab, key: str = "o1", data: Any = 1, id: str = "e1") -> Any:
    return await lab.control(SendEvent(N, "paid", key, id, js(data)), home_of("paid", key, PARTITIONS))


async def settle(lab: Lab, token: str, value: Any = None, *, rejected: bool = False) -> Any:
    named = read_token(token)
    home = 0 if named is None else partition_of(named.root or named.run, PARTITIONS)
    return await lab.control(SettleToken(N, token, js(value), rejected), home)


async def step(lab: Lab, run: RunId) -> api.StepStatus:
    return (await lab.ask(api.GetSteps(run), api.Steps)).steps[0]


def is_dormant(lab: Lab, run: RunId) -> bool:
    return run in lab.node.partitions[partition_of(run, PARTITIONS)].shard.session.state.dormant


def standing(lab: Lab, key: str = "o1") -> int:
    address = lab.node.partitions[home_of("paid", key, PARTITIONS)].shard.session.state.addresses.get(Place("default", "paid", key))
    return 0 if address is None else len(address.waiters)


@virtual
async def test_an_event_wakes_a_dormant_run() -> None:
    lab = await lab_of()
    run = await lab.submit(flow())
    await until(lambda: is_dormant(lab, run))
    assert await send(lab) == EventKept("e1", 1)
    assert await lab.result(run) == {"outcome": "success", "result": 1}
    await until(lambda: not standing(lab))
    await lab.stop()


@virtual
async def test_a_dormant_run_asks_again_before_what_it_missed_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its letter is lost with the broker's disk: nobody knows of the wait until it is looked at anyway."""
    for module in (waits, dormancy):
        monkeypatch.setattr(module, "RENEWED_MS", 90_000)
    lab = await lab_of()
    run = await lab.submit(flow())
    await until(lambda: is_dormant(lab, run))
    lab.node.partitions[home_of("paid", "o1", PARTITIONS)].shard.session.state.addresses.made(
        Place("default", "paid", "o1")
    ).waiters.clear()
    assert (await send(lab)).matched == 0
    await until(lambda: not is_dormant(lab, run), 100)
    assert await lab.result(run) == {"outcome": "success", "result": 1}
    await lab.stop()


@virtual
async def test_waits_in_memory_ask_again_when_the_broker_came_back_empty() -> None:
    lab = await lab_of()
    await lab.submit(flow(), run=run_id(1))
    lab.bus.wipe()
    await until(lambda: standing(lab) == 1)
    assert (await send(lab)).matched == 1
    lab.bus.wipe()
    assert await lab.result(run_id(1)) == {"outcome": "success", "result": 1}
    await lab.stop()


@virtual
async def test_a_wait_stands_and_an_event_is_kept_over_crashes() -> None:
    lab = await lab_of()
    run = await lab.submit(flow())
    await lab.restart()
    other = await lab.submit(flow(key="o2", since="1h"))
    await send(lab, "o2", 2)
    await lab.restart()
    await send(lab)
    await lab.restart()
    assert [(await lab.result(one))["result"] for one in (run, other)] == [1, 2]
    await lab.stop()


@virtual
async def test_an_approval_is_shown_with_its_token_and_decided_by_it_while_it_is_dormant() -> None:
    lab = await lab_of()
    run = await lab.submit(flow("approval", title="Send it?"))
    await until(lambda: is_dormant(lab, run))
    shown = await step(lab, run)
    lines = (await lab.ask(api.Explain(run), api.Explained)).lines
    assert shown.status == "awaiting"
    assert any(line.endswith(f"; token {shown.token}") for line in lines)
    await lab.restart()
    assert (await step(lab, run)).token == shown.token
    assert is_dormant(lab, run), "nobody was woken by looking"

    decision = {"approved": True, "by": "ann", "comment": None}
    assert await settle(lab, shown.token, decision) == Accepted(run)
    result = (await lab.result(run))["result"]
    assert {name: result[name] for name in decision} == decision
    await lab.restart()
    assert await settle(lab, shown.token, decision) == Accepted(run, existing=True), "whoever is not sure says it again"
    late = await settle(lab, shown.token, rejected=True)
    assert (late.code, "settled already at 2025" in late.message) == ("SM-1060", True)
    await lab.stop()


@virtual
async def test_a_token_of_a_wait_that_is_over_has_expired() -> None:
    lab = await lab_of()
    runs = [await lab.submit(flow("approval", timeout="30s")), await lab.submit(flow("approval"))]
    tokens = [(await step(lab, run)).token for run in runs]
    await lab.ended(runs[0])
    await lab.control(Cancel(runs[1], "enough"), partition_of(runs[1], PARTITIONS))
    await lab.ended(runs[1])
    for token in tokens:
        answer = await settle(lab, token)
        assert isinstance(answer, Refused)
        assert (answer.code, answer.message.startswith("this token is expired")) == ("SM-1060", True)
    await lab.stop()


@virtual
@pytest.mark.parametrize("wrong", ["smt_x", "x", ""])
async def test_what_is_no_token_is_unknown(wrong: str) -> None:
    lab = await lab_of()
    answer = await settle(lab, wrong)
    assert (answer.code, "unknown" in answer.message) == ("SM-1060", True)
    await lab.stop()


@virtual
async def test_a_token_of_another_deployment_is_unknown_here() -> None:
    lab, other = await lab_of(), await lab_of()
    run = await other.submit(flow("approval"), run=run_id(9))
    await lab.submit(flow("approval"), run=run_id(9))
    answer = await settle(lab, (await step(other, run)).token, value=True)
    assert (answer.code, "unknown" in answer.message) == ("SM-1060", True)
    await lab.stop()
    await other.stop()


@virtual
async def test_an_event_or_a_token_for_another_partition_or_namespace_is_refused() -> None:
    lab = await lab_of()
    home = home_of("paid", "o1", PARTITIONS)
    away = Partition((home + 1) % PARTITIONS)
    assert (await lab.control(SendEvent(N, "paid", "o1", "e", b"1"), away)).code == "SM-5010"
    assert (await lab.control(SendEvent(Namespace("other"), "paid", "o1", "e", b"1"), home)).code == "SM-5008"
    run = await lab.submit(flow("approval"))
    token = (await step(lab, run)).token
    away = Partition((partition_of(run, PARTITIONS) + 1) % PARTITIONS)
    assert (await lab.control(SettleToken(N, token), away)).code == "SM-5010"
    await lab.stop()


@virtual
async def test_the_history_of_a_run_tells_what_it_waited_for() -> None:
    lab = await lab_of()
    run = await lab.submit(flow(timeout="1h"))
    await send(lab)
    await lab.ended(run)
    events = (await lab.ask(api.GetEvents(run), api.Events)).events
    told = {event.kind: event.data for event in events}
    assert b'"awaits":{"event":"paid","key":"o1"}' in told["step_awaiting"]
    assert told["wait_over"] == b'{"step":0,"name":"paid","key":"o1","taken":true}'
    await lab.stop()
