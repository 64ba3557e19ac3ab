"""Anybody answers: three nodes share eight partitions, and each tells what a single node would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.simulation.cluster_world import ClusterWorld
from tests.simulation.deployment_world import until
from tests.unit.orchestrator.runtime.lab import js, run_id, virtual

from stepmesh.client import Client
from stepmesh.errors import FlowNotFound
from stepmesh.uuid7 import new_run_id_on
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.codec import decode_api_answer, encode
from stepmesh_broker.protocol.continuation import ContinueRun
from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId, content_id, partition_of
from stepmesh_broker.protocol.messages import Refused, Submit
from stepmesh_broker.protocol.pools import ListPools
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.runtime.agreement import PartitionsDisagree
from stepmesh_orchestrator.runtime.partition import Ports

PARTITIONS = 8
ECHO = {"name": "echo", "steps": [{"id": "a", "component": "/cpu/echo", "input": {"$input": "$"}}], "output": {"$step": "a"}}
WAITS = {"name": "waits", "steps": [{"id": "a", "component": "/nobody/here", "input": {"$input": "$"}}], "output": {"$step": "a"}}
PARENT: dict[str, Any] = {
    "name": "parent",
    "steps": [{"id": "m", "component": "/builtin/map", "input": {"items": [1, 2], "workflow": {"$literal": WAITS}}}],
    "output": {"$step": "m"},
}


@asynccontextmanager
async def cluster(nodes: int = 3) -> AsyncIterator[tuple[ClusterWorld, Client]]:
    world = ClusterWorld(PARTITIONS)
    for _ in range(nodes):
        await world.join()
    await world.settled()
    yield world, await world.client()
    await world.close()


async def told(node: Node, request: api.ApiRequest) -> Any:
    """The answer of this node."""
    return await node.api.answer(request)


@virtual
async def test_a_run_that_was_accepted_is_seen_by_all_at_once() -> None:
    async with cluster() as (world, client):
        flow = await client.store_flow(WAITS)
        for _ in range(12):
            handle = await client.submit(flow, [{"n": 1}])
            for node in world.nodes:
                info = await told(node, api.GetRun(handle.id))
                assert (info.summary.run, info.summary.status) == (handle.id, "running")
                assert (await told(node, api.ListRuns())).runs[0].run == handle.id
        for node in world.nodes:
            listed = (await told(node, api.ListRuns())).runs
            owners = {run: one.name for one in world.nodes for run in owned(one)}
            assert {summary.run: summary.owner for summary in listed} == owners


def owned(node: Node) -> set[RunId]:
    return {run for service in node.partitions.values() for run in service.shard.session.state.runs}


@virtual
async def test_each_question_about_a_run_has_one_answer() -> None:
    async with cluster() as (world, client):
        await world.start_worker()
        handle = await client.submit(ECHO, [{"n": 1}, {"n": 2}])
        await handle.wait(timeout=60)
        for request in (
            api.GetRun(handle.id, results=True),
            api.GetItems(handle.id, live=True),
            api.GetItems(handle.id),
            api.GetSteps(handle.id),
            api.GetEvents(handle.id),
            api.Explain(handle.id),
        ):
            answers = [await told(node, request) for node in world.nodes]
            assert answers[0] == answers[1] == answers[2], request
            assert not isinstance(answers[0], Refused)


@virtual
async def test_a_sub_run_is_found_wherever_its_root_lives() -> None:
    async with cluster() as (world, client):
        handle = await client.submit(PARENT, [{"n": 1}])
        home = partition_of(handle.id, PARTITIONS)
        owner = next(node for node in world.nodes if home in node.partitions)
        await until(lambda: len(owner.partitions[home].shard.session.state.runs) > 1)
        subs = set(owner.partitions[home].shard.session.state.runs) - {handle.id}
        for sub in subs:
            for node in world.nodes:
                found = (await told(node, api.GetRun(sub))).summary
                assert (found.root, found.partition) == (handle.id, home)


@virtual
async def test_what_is_not_there_is_refused_by_all() -> None:
    async with cluster() as (world, _):
        for node in world.nodes:
            for request in (api.GetRun(run_id(7)), api.GetSteps(run_id(7)), api.Explain(run_id(7)), api.DeleteRun(run_id(7))):
                answer = await told(node, request)
                assert isinstance(answer, Refused)
                assert answer.code == "SM-5003"
            answer = await told(node, api.DeleteFlow(FlowId(content_id(b"nothing"))))
            assert answer.code == "SM-5004"


@virtual
async def test_pools_and_components_are_counted_over_all() -> None:
    async with cluster() as (world, client):
        flow = await client.store_flow(WAITS)
        handles = [await client.submit(flow, [{"n": n}]) for n in range(20)]
        assert len({partition_of(handle.id, PARTITIONS) for handle in handles}) > 3
        for node in world.nodes:
            (pool,) = [pool for pool in (await told(node, ListPools())).pools if pool.pool == "nobody"]
            assert (pool.queued, pool.in_flight) == (20, 0)
            assert (await told(node, api.ListComponents())).silent == ["nobody"]


@virtual
async def test_a_deleted_run_and_a_deleted_flow_are_gone_for_all() -> None:
    async with cluster() as (world, client):
        await world.start_worker()
        flow = await client.store_flow(ECHO)
        handle = await client.submit(flow, [{"n": 1}])
        await handle.wait(timeout=60)
        assert isinstance(await told(world.nodes[0], api.DeleteRun(handle.id)), api.Deleted)
        for node in world.nodes:
            assert (await told(node, api.GetRun(handle.id))).code == "SM-5003"
            assert (await told(node, api.ListRuns())).runs == []
        assert isinstance(await told(world.nodes[1], api.DeleteFlow(flow)), api.Deleted)
        for number in range(20):
            run = run_id(number)
            with pytest.raises(FlowNotFound):
                await client.requests.tell(partition_of(run, PARTITIONS), Submit(run, Namespace("default"), flow, [js({})]))


@virtual
async def test_a_flow_in_use_anywhere_stays() -> None:
    async with cluster() as (world, client):
        flow = await client.store_flow(WAITS)
        handle = await client.submit(flow, [{"n": 1}])
        for node in world.nodes:
            assert (await told(node, api.DeleteFlow(flow))).code == "SM-5013"
            assert (await told(node, api.GetFlow(flow))).flow == flow
        await handle.cancel()
        await handle.wait(timeout=60)
        assert isinstance(await told(world.nodes[0], api.DeleteFlow(flow)), api.Deleted)


@virtual
async def test_who_owns_nothing_answers_as_well() -> None:
    async with cluster(nodes=1) as (world, client):
        handle = await client.submit(WAITS, [{"n": 1}])
        idle = Node(
            Ports(await world.connection(), world.journal, world.store, world.clock),
            NodeSettings(partitions=PARTITIONS, owner="idle"),
            membership=world.membership,
        )
        assert idle.partitions == {}
        info = await told(idle, api.GetInfo())
        assert (info.partitions, info.shared) == (PARTITIONS, True)
        assert (await told(idle, api.GetRun(handle.id))).summary.run == handle.id


@virtual
async def test_a_wait_goes_on_while_the_run_moves_to_another_node() -> None:
    async with cluster() as (world, client):
        handle = await client.submit(WAITS, [{"n": 1}])
        home = partition_of(handle.id, PARTITIONS)
        owner = next(node for node in world.nodes if home in node.partitions)
        asked = next(node for node in world.nodes if node is not owner)
        waiting = asyncio.create_task(told(asked, api.GetRun(handle.id, wait_ms=30_000)))
        await asyncio.sleep(1)
        await world.leave(owner)
        await world.settled()
        await handle.cancel()
        info = await asyncio.wait_for(waiting, 5)
        assert info.summary.status == "cancelled"


@virtual
async def test_a_partition_without_an_owner_is_waited_for_then_refused() -> None:
    async with cluster(nodes=1) as (world, client):
        handle = await client.submit(WAITS, [{"n": 1}])
        idle = Node(
            Ports(await world.connection(), world.journal, world.store, world.clock),
            NodeSettings(partitions=PARTITIONS, owner="idle"),
            membership=world.membership,
        )
        await world.crash(world.nodes[0])
        refused = await _served(idle, api.GetRun(handle.id))
        assert refused.code == "SM-5110"
        await world.join()
        await world.settled()
        assert (await _served(idle, api.GetRun(handle.id))).summary.run == handle.id


async def _served(node: Node, request: api.ApiRequest) -> Any:
    return decode_api_answer(await node.api.serve(encode(request)))


@virtual
async def test_another_number_of_partitions_is_refused() -> None:
    async with cluster(nodes=1) as (world, _):
        for count in (PARTITIONS - 1, PARTITIONS + 1):
            ports = Ports(await world.connection(), world.journal, world.store, world.clock)
            node = Node(ports, NodeSettings(partitions=count), membership=world.membership)
            with pytest.raises(PartitionsDisagree, match=f"has {PARTITIONS} partitions, not {count}"):
                await node.start()
        assert len(world.nodes[0].partitions) == PARTITIONS


@virtual
async def test_a_hand_over_leaves_nothing_to_replay_or_to_send_again() -> None:
    async with cluster(nodes=2) as (world, client):
        flow = await client.store_flow(WAITS)
        for n in range(40):
            await client.submit(flow, [{"n": n}])
        leaver, stays = world.nodes
        moved = set(leaver.partitions)
        await world.leave(leaver)
        await until(lambda: moved <= set(stays.partitions))
        for partition in moved:
            shard = stays.partitions[Partition(partition)].shard
            (snapshot, *_) = await world.journal.snapshots(partition)
            assert snapshot.sequence == shard.sequence, "nothing was journaled since"
            assert shard.session.state.confirmed >= shard.sequence - 1, "one frame is read beside the snapshot"
            assert stays.partitions[partition].sweeper.redispatched == 0


@virtual
async def test_a_run_is_controlled_and_forked_whoever_is_asked() -> None:
    async with cluster() as (world, client):
        await world.start_worker()
        for number in range(6):
            handle = await client.submit(ECHO, [{"n": number}, {"n": 2}])
            await handle.wait(timeout=60)
            fork = await client.control.fork(handle.id, from_step="a")
            assert (await client.handle(fork.run).wait(timeout=60)).summary.status == "completed"
            home = partition_of(handle.id, PARTITIONS)
            assert partition_of(fork.run, PARTITIONS) == home
            away = next(node for node in world.nodes if home not in node.partitions)
            request = ContinueRun(handle.id, new_run_id_on(home, PARTITIONS))
            found = await told(away, request)
            assert (found.run, found.reused) == (request.into, 2)
            assert (await told(away, request)).run == request.into, "asked again it is the same run"
        waiting = await client.submit(WAITS, [{"n": 1}])
        await client.control.pause(waiting.id)
        for node in world.nodes:
            assert (await told(node, api.GetRun(waiting.id))).summary.status == "paused"
            assert [run.run for run in (await told(node, api.ListRuns(status="paused"))).runs] == [waiting.id]
        await client.cancel(waiting.id)
