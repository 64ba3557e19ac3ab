"""`stepmesh replay` over journals on servers, beside the deployment that writes them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.contract.journals.registry import fresh

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_cli import exits
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.main import main
from stepmesh_cli.moments import moment_of
from stepmesh_cli.storage import journal_on_server, store_of
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.runtime.flows import FlowRegistry

FLOW = {
    "name": "f",
    "steps": [
        {"id": "a", "component": "/builtin/noop", "input": {"$input": "$"}},
        {"id": "nap", "component": "/builtin/sleep", "input": {"duration": "1h", "passthrough": {"$step": "a"}}},
    ],
    "output": {"$step": "nap"},
}


@pytest.mark.parametrize("kind", ["postgres", "redis", "nats"])
def test_a_run_is_replayed_beside_its_deployment_and_after_it(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, namespace = str(request.getfixturevalue(f"{kind}_url")), fresh()
    store = None if kind == "postgres" else f"sqlite:{tmp_path}/store.db"

    async def live() -> tuple[str, int]:
        settings = DeploymentSettings(journal=url, store=store, namespace=namespace, partitions=4)
        async with Deployment(settings) as deployment:
            client = await deployment.client()
            handle = await client.submit(FLOW, [7])
            await client.control.pause(handle.id)
            position = [event async for event in handle.events(follow=False)][-1].position
            journal = journal_on_server(url, Namespace(namespace), None)
            kept = store_of(url, store, namespace)
            await journal.open()
            await kept.open()
            try:
                found = await moment_of(journal, FlowRegistry(kept, SystemClock()), handle.id, None)
            finally:
                await journal.close()
                await kept.close()
            assert found is not None
            assert (found.run.status, found.position) == ("paused", position)
            await client.cancel(handle.id)
            return handle.id, position

    run, position = asyncio.run(live())
    flags = ["--journal", url, "--namespace", namespace, *(["--store", store] if store else [])]
    assert main(["replay", run, *flags, "--json"]) == exits.OK
    assert json.loads(capsys.readouterr().out)["status"] == "cancelled"
    assert main(["replay", run, *flags, "--until", str(position), "--json"]) == exits.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["position"]) == ("paused", position)
    assert [(step["step_id"], step["status"]) for step in told["items"][0]["steps"]] == [("a", "success"), ("nap", "sleeping")]
    if store is not None:
        assert main(["replay", run, *flags[:4]]) == exits.USAGE
        assert "--store names where" in capsys.readouterr().err
