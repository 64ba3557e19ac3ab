"""What a record of the submit topic asks for, as a submission, or why it is refused: all that can be said without its partition's state.

Invariant: what is admitted here is not refused where it is decided, unless its flow is removed meanwhile; so no refusal goes unheard.
"""

from __future__ import annotations

import logging

from stepmesh_broker.protocol.ids import FlowId
from stepmesh_broker.protocol.messages import Failure, Refused, Submit
from stepmesh_broker.protocol.records import PlainRecord
from stepmesh_broker.protocol.submission import BadSubmission, Submission, read_submission
from stepmesh_orchestrator.core.decide.submit import refusal_of
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.flow.diagnostics import FlowInvalid
from stepmesh_orchestrator.core.session import EngineSettings
from stepmesh_orchestrator.ports import StoreError
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.idempotency import keyed
from stepmesh_orchestrator.runtime.tenants import Tenants

log = logging.getLogger("stepmesh.intake")


class Admission:
    """To the runs of a deployment."""

    def __init__(self, flows: FlowRegistry, settings: EngineSettings, tenants: Tenants, partitions: int) -> None:
        self._flows = flows
        self._settings = settings
        self._tenants = tenants
        self._partitions = partitions

    async def read(self, record: PlainRecord) -> Submit | Refused:
        """Loads the flow, and stores it where the record has it as a whole. Raises `StoreError`. A record that shows a defect of ours is
        refused like any other: it must not hold up those behind it."""
        try:
            said = read_submission(record)
            return await self._admitted(said, record)
        except (BadSubmission, FlowInvalid) as problem:
            return Refused(problem.code, problem.message, problem.hint)
        except StoreError:
            raise
        except Exception:
            log.exception("SM-5131 a record of the submit topic cannot be worked with")
            return Refused("SM-5131", "the orchestrator failed on this record; its log has the details", "report it with that log")

    async def _admitted(self, said: Submission, record: PlainRecord) -> Submit | Refused:
        flow = FlowId(said.flow_id or "")
        if said.document is not None:
            stored = await self._stored(said.document)
            if isinstance(stored, Failure):
                return Refused("SM-5130", f"the record's flow is not valid: {stored.message}", "`stepmesh validate` says more")
            flow = stored.id
        submit = said.submit(record, self._tenants.own, flow, self._partitions)
        foreign = self._tenants.refusal(submit.namespace)
        if foreign is not None:
            return foreign
        compiled = await self._flows.load(flow, submit.overrides)
        if compiled is None:
            return unknown_flow(submit)
        return refusal_of(self._settings, submit, compiled) or keyed(compiled, submit, self._partitions)

    async def _stored(self, document: bytes) -> CompiledFlow | Failure:
        """Stored before anything that names it is."""
        while (known := self._flows.by_text(document)) is None:
            await self._flows.add_text(document)
        return known


def unknown_flow(submit: Submit) -> Refused:
    """SM-5004."""
    return Refused("SM-5004", f"there is no flow with id {submit.flow}", "store it first (`stepmesh submit` and Client.submit do)")
