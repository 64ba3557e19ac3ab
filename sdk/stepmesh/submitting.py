"""Submissions of one flow with the same options: from inputs as JSON text to a run that is journaled.

Invariant: a submission is repeated with the same run id while the orchestrator is away, so it makes one run at most. It must not know who
submits, nor how many at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypedDict, Unpack

from msgspec import structs

from stepmesh import payloads
from stepmesh.documents import FlowLike
from stepmesh.instrument import SubmitInstrument
from stepmesh.requests import Requests
from stepmesh.runs import RunHandle
from stepmesh.uuid7 import new_run_id, new_run_id_on
from stepmesh_broker.protocol.ids import Namespace, RunId, partition_of
from stepmesh_broker.protocol.messages import Submit
from stepmesh_broker.protocol.subjects import checked_name


class RunOptions(TypedDict, total=False):
    """What runs of a flow may be given, see `Client.submit`."""

    variables: Mapping[str, Any] | None
    overrides: Mapping[str, Any] | None
    max_concurrency: int | None
    tags: Mapping[str, str] | None
    priority: int
    tenant: str | None


class Submitter:
    """Over one connection. `like`: all that its submissions have in common."""

    def __init__(self, requests: Requests, like: Submit, partitions: int, instrument: SubmitInstrument | None) -> None:
        self._requests = requests
        self._like = like
        self._partitions = partitions
        self._instrument = instrument

    @classmethod
    async def of(cls, requests: Requests, flow: FlowLike, instrument: SubmitInstrument | None, **options: Unpack[RunOptions]) -> Submitter:
        """Stores the flow unless it is given by its id. Raises `FlowInvalid`, `BadFlow`, `BrokerUnavailable`."""
        flow_id = await requests.flow_id(flow)
        partitions = (await requests.info()).partitions
        variables, overrides, tags = options.get("variables"), options.get("overrides"), options.get("tags")
        tenant = options.get("tenant")
        like = Submit(
            RunId(""),
            requests.namespace if tenant is None else Namespace(checked_name("namespace", tenant)),
            flow_id,
            [],
            None if variables is None else payloads.write(variables),
            None if overrides is None else payloads.write(overrides),
            options.get("max_concurrency"),
            tags=None if tags is None else dict(tags),
            priority=options.get("priority", 0),
        )
        return cls(requests, like, partitions, instrument)

    async def submit(self, inputs: Sequence[bytes], run_key: str | None) -> RunHandle:
        """Returns once the run is journaled. Raises `RequestRefused`, `MessageTooLarge`, `BrokerUnavailable`."""
        partitions = self._partitions
        run = new_run_id() if run_key is None else new_run_id_on(partition_of(run_key, partitions), partitions)
        request = structs.replace(self._like, run=run, inputs=[*inputs], run_key=run_key)
        send = partial(self._requests.tell, partition_of(run, partitions))
        accepted = await (send(request) if self._instrument is None else self._instrument.submit(request, send))
        existing = accepted.existing and accepted.run != run  # else it is this submission, which was sent twice
        return RunHandle(self._requests, accepted.run, existing)
