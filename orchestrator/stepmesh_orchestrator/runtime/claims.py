"""Answers to workers: may I run this, am I still to run this. Synchronous, from memory; leases are soft state."""

from __future__ import annotations

from stepmesh_broker.protocol.ids import WorkerId
from stepmesh_broker.protocol.messages import Claim, Claimed, Heartbeat, Progress, TaskRef, Verdict
from stepmesh_orchestrator.core.decide.results import in_flight
from stepmesh_orchestrator.core.rebuild import time_limit
from stepmesh_orchestrator.ports import Clock
from stepmesh_orchestrator.runtime.leases import LEASE_MS
from stepmesh_orchestrator.runtime.shard import Shard


async def answer_claim(shard: Shard, claim: Claim, clock: Clock) -> Claimed:
    """A verdict per task, in order. GONE ends a task for good, so it is said only of what the journal holds; else NOT_READY."""
    verdicts = _claims(shard, claim, clock)
    if Verdict.GONE in verdicts:
        settled = await shard.settled()
        verdicts = _claims(shard, claim, clock)
        if not settled:
            verdicts = [Verdict.NOT_READY if verdict is Verdict.GONE else verdict for verdict in verdicts]
    return Claimed([*verdicts], LEASE_MS)


def _claims(shard: Shard, claim: Claim, clock: Clock) -> list[Verdict]:
    now = clock.monotonic()
    return [claimed(shard, task, claim.worker, now, running=claim.running) for task in claim.tasks]


def answer_heartbeat(shard: Shard, heartbeat: Heartbeat, clock: Clock) -> Claimed:
    """A verdict per task, in order; a task that the shard does not know to be held is granted to its worker. A task that is over may
    run on until the journal holds that it is: the next heartbeat says so."""
    now = clock.monotonic()
    return Claimed([_renew(shard, progress, heartbeat.worker, now) for progress in heartbeat.tasks], LEASE_MS)


def claimed(shard: Shard, task: TaskRef, worker: WorkerId, now: float, *, running: bool) -> Verdict:
    """Of one task, from memory: see `Leases.claim`; GONE when it is not in flight."""
    timeout_ms = _time_limit(shard, task)
    if timeout_ms is None:
        return Verdict.GONE
    return shard.dispatcher.leases.claim(task, worker, now, timeout_ms, running=running)


def _renew(shard: Shard, progress: Progress, worker: WorkerId, now: float) -> Verdict:
    timeout_ms = _time_limit(shard, progress.task)
    if timeout_ms is None:
        return Verdict.CANCELLED if shard.is_settled else Verdict.GRANTED
    return shard.dispatcher.leases.renew(progress, worker, now, timeout_ms)


def _time_limit(shard: Shard, task: TaskRef) -> int | None:
    """The attempt's limit in ms (0 = none); None when it is not in flight."""
    item = in_flight(shard.session, task.run, task.item, task.step, task.attempt)
    return None if item is None else time_limit(shard.session, item, task.step)
