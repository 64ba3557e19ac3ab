"""A request to let a run go on, as the owner of its partition takes it: with what live workers have, as far as they were heard.

Knows nothing of what a version means: the decision is the core's.
"""

from __future__ import annotations

from stepmesh_broker.protocol.messages import Refused, Resume
from stepmesh_orchestrator.core.commands import ResumeRun
from stepmesh_orchestrator.core.decide.versions import NOT_ALIVE
from stepmesh_orchestrator.ports import Clock
from stepmesh_orchestrator.runtime.dormitory import Dormitory
from stepmesh_orchestrator.runtime.inputs import Answer
from stepmesh_orchestrator.runtime.presence import Presence
from stepmesh_orchestrator.runtime.shard import Shard

AGAIN_S = 0.5
"""How often (seconds) a process that began just now looks whether the worker was heard that is to go on."""


async def resume(shard: Shard, dormitory: Dormitory, presence: Presence, clock: Clock, message: Resume) -> Answer:
    """The answer, once it is journaled. Raises `StoreError`."""
    while True:
        await dormitory.awake(message.run)
        may_come = presence.is_young
        alive = frozenset(presence.functions()) if message.version else frozenset[tuple[str, str, str]]()
        answer = await shard.command(ResumeRun(message.run, message.version, alive))
        if not (may_come and isinstance(answer, Refused) and answer.code == NOT_ALIVE):
            return answer
        await clock.sleep(AGAIN_S)
