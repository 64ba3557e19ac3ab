"""Plain records on the submit topic: how a program with nothing but a producer starts runs. docs/protocol.md is the contract.

Invariant: a record gives the same run id whoever reads it, and however often; records with one run key give the same id wherever they
lie. It must not know how records travel, nor whether there is such a flow.
"""

from __future__ import annotations

import hashlib
from itertools import count
from typing import Annotated

import msgspec

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.protocol import tracecontext
from stepmesh_broker.protocol.ids import FlowId, Namespace, RunId, partition_of
from stepmesh_broker.protocol.messages import Submit
from stepmesh_broker.protocol.records import MEDIA_TYPE, VERSION, PlainRecord

MAX_KEY = 200
"""Characters of a run key."""
_NULL = b"null"
Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Uint32 = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
Name = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
Priority = Annotated[int, msgspec.Meta(ge=-100, le=100)]


class Submission(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a record's value says: a run with one item for each member of `input`. The flow by its id, or as a document."""

    input: list[msgspec.Raw]
    flow_id: Hash | None = None
    flow: msgspec.Raw = msgspec.Raw(_NULL)
    variables: msgspec.Raw = msgspec.Raw(_NULL)
    overrides: msgspec.Raw = msgspec.Raw(_NULL)
    max_concurrency: Uint32 | None = None
    tags: dict[str, str] | None = None
    namespace: Name | None = None
    priority: Priority = 0

    @property
    def document(self) -> bytes | None:
        """The flow, where it is given as a whole."""
        return _given(self.flow)

    def submit(self, record: PlainRecord, namespace: Namespace, flow: FlowId, partitions: int) -> Submit:
        """As the orchestrator takes it. `namespace`: of the deployment, whose tenant the record may name."""
        key = run_key(record)
        tenant = namespace if self.namespace is None else Namespace(self.namespace)
        return Submit(
            submitted_run(record, tenant, partitions),
            tenant,
            flow,
            [bytes(one) for one in self.input],
            _given(self.variables),
            _given(self.overrides),
            self.max_concurrency,
            key,
            traceparent=_traceparent(record),
            tags=self.tags,
            priority=self.priority,
        )


_decode = msgspec.json.Decoder(Submission).decode


class BadSubmission(BrokerError):
    """Not retryable: a record of the submit topic that starts nothing, whoever reads it."""

    default_code = "SM-3050"


def read_submission(record: PlainRecord) -> Submission:
    """What the record says. Raises `BadSubmission`: SM-3050 for its value, SM-3051 for its headers, SM-3052 for its key."""
    _check_headers(record)
    run_key(record)
    try:
        record.value.decode()
        found = _decode(record.value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise BadSubmission(f"not a submission: {problem or type(problem).__name__}", hint=_SHAPE) from problem
    if (found.flow_id is None) == (found.document is None):
        raise BadSubmission("not a submission: it wants `flowId` or `flow`, one of them", hint=_SHAPE)
    return found


_SHAPE = 'write {"flowId": "…", "input": [one value per item]}; the protocol\'s page has all fields'


def run_key(record: PlainRecord) -> str | None:
    """None for a record without one. Raises `BadSubmission` SM-3052."""
    if not record.key:
        return None
    try:
        key = record.key.decode()
    except UnicodeDecodeError:
        key = ""
    if not key.isprintable() or not 0 < len(key) <= MAX_KEY:
        raise BadSubmission("the key is no run key", code="SM-3052", hint=f"1 to {MAX_KEY} printable characters in UTF-8, or no key")
    return key


def submitted_run(record: PlainRecord, namespace: Namespace, partitions: int) -> RunId:
    """Of the key, where there is one (UUIDv8: all of it is hash), on the partition where a client's submission with that key would be;
    else of the record's first place and time (UUIDv7 layout)."""
    key = run_key(record)
    if key is None:
        lane, position, time_ms = record.origin
        digest = hashlib.sha256(f"{namespace}/record/{lane}/{position}/{time_ms}".encode()).hexdigest()
        time = f"{time_ms & 0xFFFF_FFFF_FFFF:012x}"
        return _uuid(time + "7" + digest)
    return keyed_run(namespace, key, partitions)


def keyed_run(namespace: Namespace, key: str, partitions: int) -> RunId:
    """The one run of a key, whoever submits it."""
    home = partition_of(key, partitions)
    drawn = (_keyed(f"{namespace}/key/{number}/{key}") for number in count())
    return next(run for run in drawn if partition_of(run, partitions) == home)


def _keyed(name: str) -> RunId:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return _uuid(digest[:12] + "8" + digest[12:])


def _uuid(digits: str) -> RunId:
    """32 of the digits, with the variant of RFC 9562 put in."""
    variant = "89ab"[int(digits[16], 16) & 3]
    return RunId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{variant}{digits[17:20]}-{digits[20:32]}")


def _check_headers(record: PlainRecord) -> None:
    unknown = record.version_problem()
    if unknown is not None:
        raise BadSubmission(unknown, code="SM-3051", hint=f"this is version {VERSION}")
    if record.media_type != MEDIA_TYPE:
        raise BadSubmission(
            f"content type {record.media_type!r} is not read", code="SM-3051", hint=f"send {MEDIA_TYPE}, or no content-type"
        )


def _given(value: msgspec.Raw) -> bytes | None:
    return None if (text := bytes(value)) == _NULL else text


def _traceparent(record: PlainRecord) -> str:
    given = record.headers.get("traceparent", b"").decode(errors="replace")
    return given if tracecontext.parse(given) is not None else ""
