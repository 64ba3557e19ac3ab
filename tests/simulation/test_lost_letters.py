"""A letter of an event is lost with the disk of a broker: the wait asks again before the event is forgotten (every three days; here every
hour, which takes less of the test's time), however far away the next timer of its run is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.simulation.deployment_world import World, until
from tests.simulation.faults import kind_of
from tests.simulation.virtual_loop import run_virtual

from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Partition, Position
from stepmesh_orchestrator.core.decide import dormancy, waits
from stepmesh_orchestrator.core.session import EngineSettings

RENEWED_S = 3_600
BY_FLOW = {
    "steps": [{"id": "w", "component": "/builtin/wait_for_event", "input": {"name": "paid", "key": "o1", "timeout": "30d"}}],
    "output": {"$step": "w"},
}
BY_FUNCTION = {"steps": [{"id": "w", "component": "/py/order"}], "output": {"$step": "w"}}


class Forgetting:
    """A connection that takes letters and loses them while `lost` is not None; everything else goes straight through."""

    def __init__(self, inner: Broker) -> None:
        self._inner = inner
        self.lost: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def post(self, partition: Partition, data: bytes, message_id: str = "") -> Position:
        if self.lost is not None and kind_of(data) == "letters":
            self.lost += 1
            return Position(0)
        return await self._inner.post(partition, data, message_id)


async def order(value: Any) -> Any:
    """Its next timer is farther away than the event is kept."""
    return await wf.wait_for_event("paid", "o1", timeout="30d")


async def play(document: dict[str, Any]) -> None:
    connections: list[Forgetting] = []

    def wrap(broker: Broker) -> Broker:
        connections.append(Forgetting(broker))
        return connections[-1]  # type: ignore[return-value]

    world, app = World(wrap=wrap), App("py")
    app.workflow(order)
    await world.start_node()
    await world.employ(app.worker())
    client = await world.client()
    handle = await client.submit(document, [None])
    await until(lambda: handle.id in world.dormant())
    connections[0].lost = 0
    assert (await client.events.send("paid", key="o1", data=7)).matched == 1
    await until(lambda: connections[0].lost)
    connections[0].lost = None
    ended = await handle.wait(timeout=RENEWED_S + 60)
    assert json.loads(ended.results[0].result) == {"outcome": "success", "result": 7}
    await world.close()
    await world.audit()


@pytest.mark.parametrize("document", [BY_FLOW, BY_FUNCTION], ids=["flow", "function"])
def test_who_waits_asks_again_before_the_event_is_forgotten(document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert EngineSettings().keep_events_ms / 2 > waits.RENEWED_MS
    for module in (waits, dormancy):
        monkeypatch.setattr(module, "RENEWED_MS", RENEWED_S * 1_000)
    run_virtual(play(document), 2 * RENEWED_S)
