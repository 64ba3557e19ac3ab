"""Replays: equal journals give equal hashes, another journal another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepmesh import Worker
from stepmesh_cli.demo.history import read_history
from stepmesh_cli.demo.replay import kept, replayed
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_orchestrator.journal.sqlite import SqliteJournal
from stepmesh_orchestrator.store.sqlite import SqliteStore

FLOW = {"name": "one", "steps": [{"id": "a", "component": "/cpu/same", "input": {"$input": "$"}}], "output": {"$step": "a"}}


async def test_two_replays_and_the_kept_state_agree_and_a_shorter_journal_differs(tmp_path: Path) -> None:
    worker = Worker("cpu")
    worker.component(lambda value: value, path="/same", name="same")
    async with Deployment(DeploymentSettings(journal="sqlite", data_dir=tmp_path, workers=(worker,))) as deployment:
        client = await deployment.client()
        handle = await client.submit(FLOW, [1, 2, 3])
        await deployment.guard(handle.wait(30))
    journal, store = SqliteJournal(tmp_path / "journal.db"), SqliteStore(tmp_path / "store.db")
    await journal.open()
    await store.open()
    frames, whole = await replayed(journal, store)
    assert (frames, whole) == await replayed(journal, store)
    assert await kept(journal, store) == (frames, whole)
    shorter = await replayed(journal, store, through=frames - 1)
    assert shorter[0] == frames - 1
    assert shorter[1] != whole
    history = await read_history(journal, store)
    assert history.entries[-1].sequence == frames
    assert history.step_id(handle.id, 0) == "a"
    assert history.component(handle.id, 0) == "/cpu/same"
    await store.close()
    await journal.close()


@pytest.mark.parametrize("item", [0, 1])
async def test_an_item_of_a_sub_run_belongs_to_one_of_the_root(tmp_path: Path, item: int) -> None:
    inner = {"name": "inner", "steps": [], "output": {"$input": "$"}}
    step = {"id": "m", "component": "/builtin/map", "input": {"workflow": {"$literal": inner}, "items": {"$input": "$"}}}
    async with Deployment(DeploymentSettings()) as deployment:
        client = await deployment.client()
        handle = await client.submit({"name": "outer", "steps": [step], "output": {"$step": "m"}}, [[7], [8]])
        await deployment.guard(handle.wait(30))
        history = await read_history(deployment.node.ports.journal, deployment.node.ports.store)
    below = [run for run, created in history.created.items() if created.parent is not None and created.parent.item == item]
    assert [history.root_item(run, 0) for run in below] == [(handle.id, item)]
