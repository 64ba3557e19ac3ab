"""What a record of the submit topic may say, and the run id that follows from it."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as some

from stepmesh_broker.protocol.ids import FlowId, Namespace, partition_of
from stepmesh_broker.protocol.records import PlainRecord
from stepmesh_broker.protocol.submission import MAX_KEY, BadSubmission, read_submission, submitted_run

NS = Namespace("default")
FLOW = b"0f" * 32
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def record(value: bytes = b'{"flowId":"%s","input":[1]}', key: bytes = b"", position: int = 7, **headers: bytes) -> PlainRecord:
    return PlainRecord(
        2, position, 1_700_000_000_000, value.replace(b"%s", FLOW), key, {name.replace("_", "-"): text for name, text in headers.items()}
    )


def test_all_fields_arrive_as_they_were_written() -> None:
    value = b"""{"flowId": "%s", "input": [{"b": 1.0, "a": 12345678901234567890}, null], "variables": {"v": 1},
    "overrides": {"a": {}}, "maxConcurrency": 0, "tags": {"team": "x"}}"""
    given = record(value, b"order-1", traceparent=TRACE, content_type=b"Application/JSON; charset=utf-8", stepmesh_contract=b"1")
    submit = read_submission(given).submit(given, NS, FlowId("f"), 16)
    assert submit.inputs == [b'{"b": 1.0, "a": 12345678901234567890}', b"null"]
    assert (submit.variables, submit.overrides) == (b'{"v": 1}', b'{"a": {}}')
    assert (submit.max_concurrency, submit.run_key, submit.tags) == (0, "order-1", {"team": "x"})
    assert submit.traceparent == TRACE.decode()
    assert submit.run == submitted_run(given, NS, 16)


def test_what_is_null_is_not_given() -> None:
    given = record(b'{"flow":{"steps":[]},"input":[],"variables":null,"overrides":null,"maxConcurrency":null,"tags":null,"flowId":null}')
    said = read_submission(given)
    submit = said.submit(given, NS, FlowId("f"), 1)
    assert said.document == b'{"steps":[]}'
    assert (submit.inputs, submit.variables, submit.overrides, submit.max_concurrency, submit.run_key) == ([], None, None, None, None)


@pytest.mark.parametrize(
    "value",
    [
        b'{"flowId":"name","input":[1]}',
        b"", b"nonsense", b"[]", b"{}", b'{"flowId":"%s"}', b'{"input":[1]}', b'{"flowId":"%s","flow":{},"input":[1]}',
        b'{"flowId":"%s","input":1}',
        b'{"flowId":"","input":[1]}', b'{"flowId":"%s","input":[1],"inputs":[]}', b'{"flowId":"%s","input":[1],"maxConcurrency":-1}',
        b'{"flowId":"%s","input":[1],"tags":{"a":1}}', b'{"flowId":"%s","input":["\xff"]}', b'{"flowId":"%s","input":[1]} x',
    ],
)  # fmt: skip
def test_what_is_no_submission_is_refused(value: bytes) -> None:
    with pytest.raises(BadSubmission) as caught:
        read_submission(record(value))
    assert caught.value.code == "SM-3050"
    assert caught.value.hint


@pytest.mark.parametrize("headers", [{"stepmesh_contract": b"2"}, {"content_type": b"application/avro"}, {"stepmesh_contract": b"\xff"}])
def test_another_contract_is_refused(headers: dict[str, bytes]) -> None:
    with pytest.raises(BadSubmission) as caught:
        read_submission(record(**headers))
    assert caught.value.code == "SM-3051"


@pytest.mark.parametrize("key", [b"k" * (MAX_KEY + 1), b"\xff", b"a\nb"])
def test_what_is_no_run_key_is_refused(key: bytes) -> None:
    with pytest.raises(BadSubmission) as caught:
        read_submission(record(key=key))
    assert caught.value.code == "SM-3052"


def test_the_longest_run_key_is_taken() -> None:
    assert read_submission(record(key=b"k" * MAX_KEY)).flow_id == FLOW.decode()


def test_what_is_no_trace_context_is_ignored() -> None:
    given = record(traceparent=b"nonsense")
    assert read_submission(given).submit(given, NS, FlowId("f"), 1).traceparent == ""


@given(key=some.text(some.characters(categories=["L", "N"]), min_size=1, max_size=20), partitions=some.integers(1, 64))
def test_a_key_is_one_run_wherever_it_lies_and_on_the_partition_of_the_key(key: str, partitions: int) -> None:
    run = submitted_run(record(key=key.encode()), NS, partitions)
    assert run == submitted_run(record(b"other", key=key.encode(), position=99), NS, partitions)
    assert run != submitted_run(record(key=key.encode()), Namespace("other"), partitions)
    assert partition_of(run, partitions) == partition_of(key, partitions)
    assert str(uuid.UUID(run)) == run
    assert (uuid.UUID(run).version, uuid.UUID(run).variant) == (8, uuid.RFC_4122)


def test_without_a_key_a_place_is_one_run() -> None:
    run = submitted_run(record(), NS, 16)
    assert run == submitted_run(record(b"read again"), NS, 16)
    assert run != submitted_run(record(position=8), NS, 16)
    assert (uuid.UUID(run).version, uuid.UUID(run).int >> 80) == (7, 1_700_000_000_000)
