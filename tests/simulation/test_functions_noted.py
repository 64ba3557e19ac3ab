"""Attributes and tags of durable functions: shown with their steps while they go on, after they began anew, and when they have ended."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from tests.simulation.deployment_world import World
from tests.simulation.virtual_loop import run_virtual
from tests.unit.orchestrator.core.test_functions import BEGAN, Body, issued, sleeping

from stepmesh import Client
from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh_broker.protocol.api import GetSteps, Steps
from stepmesh_broker.protocol.histories import Issued, Kind
from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core.projection import step_row
from stepmesh_orchestrator.core.snapshot import decode_state, encode_state, state_hash


async def noted(client: Client, run: str) -> list[tuple[Any, Any]]:
    steps = (await client.requests.ask(GetSteps(RunId(run)), Steps)).steps
    return [tuple(None if one is None else msgspec.json.decode(one) for one in (step.attributes, step.tags)) for step in steps]


def test_they_are_shown_while_it_goes_on_and_afterwards() -> None:
    app = App("py")

    @app.workflow
    async def parcel(stage: int) -> int:
        wf.set(f"stage {stage}", {"n": stage})
        wf.set("status", "packing")
        wf.tags.add("vip")
        wf.tags.add("fragile", "very")
        await asyncio.sleep(100)
        wf.set("status", "packed")
        wf.tags.remove("vip")
        await asyncio.sleep(100)
        if not stage:
            wf.continue_as_new(1)
        return stage

    async def played() -> None:
        world = World()
        await world.start_node()
        await world.employ(app.worker())
        client = await world.client()
        handle = await client.submit(parcel, [0])
        await asyncio.sleep(50)
        first = {"stage 0": {"n": 0}, "status": "packing"}
        assert await noted(client, handle.id) == [(first, {"vip": "", "fragile": "very"})]
        await asyncio.sleep(100)
        assert await noted(client, handle.id) == [({**first, "status": "packed"}, {"fragile": "very"})]
        await handle.wait(timeout=1_000)
        both = {"stage 0": {"n": 0}, "stage 1": {"n": 1}, "status": "packed"}
        assert await noted(client, handle.id) == [(both, {"fragile": "very"})]
        await world.close()

    run_virtual(played(), 10_000)


def test_they_outlive_a_snapshot_and_what_is_no_json_is_left_out() -> None:
    body = Body()
    bad = Issued("r/bad", Kind.ATTRIBUTE, "bad", "", b"{", "orders.py:8")
    body.turn(BEGAN, issued("r/status", Kind.ATTRIBUTE, "packing", name="status"), bad, sleeping(60_000), idle=True)
    restored = decode_state(encode_state(body.state), body.session.flows)
    assert state_hash(restored) == state_hash(body.state)
    for state in (body.state, restored):
        row = step_row(state.runs[body.run].items[0], 0)
        assert row is not None
        assert (row.attributes, row.tags) == (b'{"status":"packing"}', None)
