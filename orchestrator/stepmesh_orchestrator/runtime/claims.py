"""Answers to workers: may I run this, am I still to run this. Synchronous, from memory; leases are soft state."""

from __future__ import annotations

from stepmesh_broker.protocol.ids import WorkerId
from stepmesh_broker.protocol.messages import Claim, Claimed, Heartbeat, TaskRef, Verdict
from stepmesh_orchestrator.core.decide.results import in_flight
from stepmesh_orchestrator.ports import Clock
from stepmesh_orchestrator.runtime.leases import LEASE_MS
from stepmesh_orchestrator.runtime.shard import Shard


def answer_claim(shard: Shard, claim: Claim, clock: Clock) -> Claimed:
    """A verdict per task, in order."""
    return Claimed([_claim(shard, task, claim, clock.monotonic()) for task in claim.tasks], LEASE_MS)


def answer_heartbeat(shard: Shard, heartbeat: Heartbeat, clock: Clock) -> Claimed:
    """A verdict per task, in order; a task that the shard does not know to be held is granted to its worker."""
    now = clock.monotonic()
    return Claimed([_renew(shard, progress.task, heartbeat.worker, now) for progress in heartbeat.tasks], LEASE_MS)


def _claim(shard: Shard, task: TaskRef, claim: Claim, now: float) -> Verdict:
    timeout_ms = _time_limit(shard, task)
    if timeout_ms is None:
        return Verdict.GONE
    return shard.dispatcher.leases.claim(task, claim.worker, now, timeout_ms, running=claim.running)


def _renew(shard: Shard, task: TaskRef, worker: WorkerId, now: float) -> Verdict:
    timeout_ms = _time_limit(shard, task)
    if timeout_ms is None:
        return Verdict.CANCELLED
    return shard.dispatcher.leases.renew(task, worker, now, timeout_ms)


def _time_limit(shard: Shard, task: TaskRef) -> int | None:
    """The attempt's limit in ms (0 = none); None when it is not in flight."""
    item = in_flight(shard.session, task.run, task.item, task.step, task.attempt)
    return None if item is None else item.run.flow.steps[task.step].timeout_ms
