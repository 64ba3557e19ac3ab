"""Submissions of flows that say which of them are the same one (`idempotency`): the run of a key has one id and one home.

Invariant: equal keys of a namespace and flow are one run, as long as the run is known to the read model, which is until it is deleted. A
submission that has a run key of its own, or belongs to a running component, is left as it is. It must not know how submissions come.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from msgspec import structs

from stepmesh_broker.errors import BrokerUnavailable, MessageTooLarge
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.ids import Namespace, Partition, partition_of
from stepmesh_broker.protocol.messages import Accepted, Refused, Submit
from stepmesh_broker.protocol.submission import keyed_run
from stepmesh_orchestrator.core.commands import StartRun
from stepmesh_orchestrator.core.decide.gates import run_key_of
from stepmesh_orchestrator.core.decide.submit import refusal_of
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.session import EngineSettings
from stepmesh_orchestrator.ports import JournalFull, Store
from stepmesh_orchestrator.runtime.owners import PATIENCE_S, RETRY_S, PartitionMoving

ANSWER_S = 8.0
"""How long a home may take to journal a run."""
_LATER = frozenset({PartitionMoving.default_code, JournalFull.default_code})
"""Refusals that pass."""


def keyed(flow: CompiledFlow, submit: Submit, partitions: int) -> Submit:
    """Under the key that its flow makes of it, if it does; `refusal_of` has said that there is one."""
    key = run_key_of(flow, submit)
    return submit if key is None else structs.replace(submit, run=keyed_run(submit.namespace, key, partitions), run_key=key)


class Idempotency:
    """Of the submissions that come to one partition. `own`: the deployment's namespace."""

    def __init__(
        self, broker: Broker, store: Store, settings: EngineSettings, own: Namespace, partition: Partition, partitions: int
    ) -> None:
        self._broker = broker
        self._store = store
        self._settings = settings
        self._own = own
        self._partition = partition
        self._partitions = partitions

    async def begin(self, start: StartRun | Refused) -> StartRun | Accepted | Refused:
        """As it is to be decided here; else what came of it at the home of its key. Raises `StoreError`, `BrokerUnavailable` SM-5110 while
        that home is away."""
        named = await self._named(start)
        home = self._home(named)
        return await self._ask(home, named.submit) if home is not None and isinstance(named, StartRun) else named

    async def pass_on(self, start: StartRun | Refused) -> StartRun | Accepted | Refused | None:
        """Of the inbox, where nothing waits for a home, because what stands behind would wait, too: it goes to the inbox there (None), and
        is answered from there. Raises `StoreError`, `BrokerUnavailable`."""
        named = await self._named(start)
        home = self._home(named)
        if home is None or not isinstance(named, StartRun) or isinstance(start, Refused):
            return named
        try:
            await self._broker.post(home, codec.encode(named.submit), f"submit/{named.submit.run}/{start.submit.run}")
        except MessageTooLarge as problem:
            return Refused(problem.code, problem.message, problem.hint)
        return None

    async def _named(self, start: StartRun | Refused) -> StartRun | Accepted | Refused:
        """Under the key that its flow makes of it; or the run that has it, where only the read model remembers it."""
        if isinstance(start, Refused) or start.flow.idempotency is None or start.submit.run_key is not None:
            return start
        refused = refusal_of(self._settings, start.submit, start.flow)
        if refused is not None:
            return refused
        submit = keyed(start.flow, start.submit, self._partitions)
        if submit.run_key is not None and await self._store.get_run(submit.run) is not None:
            return Accepted(submit.run, existing=True)
        return replace(start, submit=submit)

    def _home(self, named: StartRun | Accepted | Refused) -> Partition | None:
        """Of its key, when that is another partition."""
        if not isinstance(named, StartRun) or named.submit.parent is not None:
            return None
        home = partition_of(named.submit.run, self._partitions)
        return None if home == self._partition else home

    async def _ask(self, home: Partition, submit: Submit) -> Accepted | Refused:
        """Twice does no harm: the run has one id."""
        clock = asyncio.get_running_loop().time
        until, data = clock() + PATIENCE_S, codec.encode(submit)
        while True:
            try:
                told = codec.decode_answer(await self._broker.request(subjects.control(self._own, home), data, ANSWER_S))
                if isinstance(told, Accepted) or (isinstance(told, Refused) and told.code not in _LATER):
                    return told
            except BrokerUnavailable:
                pass
            if clock() + RETRY_S >= until:
                raise BrokerUnavailable(
                    f"partition {home}, the home of {submit.run_key}, does not answer", code=PartitionMoving.default_code, hint="ask again"
                )
            await asyncio.sleep(RETRY_S)
