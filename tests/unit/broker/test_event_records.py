"""What a record of the events topic may say: as Stepmesh writes it, or as a CloudEvent; and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from stepmesh_broker.protocol.event_records import MAX_ID, BadEvent, read_event
from stepmesh_broker.protocol.ids import Namespace, content_id
from stepmesh_broker.protocol.messages import SendEvent
from stepmesh_broker.protocol.records import PlainRecord

NS = Namespace("default")
RUN = "01900000-0000-7000-8000-000000000001"
CLOUD: dict[str, Any] = {"specversion": "1.0", "id": "e1", "source": "/shop", "type": "paid", "subject": "o1", "data": {"n": 1}}
BINARY = {"ce_specversion": b"1.0", "ce_id": b"e1", "ce_source": b"/shop", "ce_type": b"paid", "ce_subject": b"o1"}


def record(value: bytes, key: bytes = b"", position: int = 7, **headers: bytes) -> PlainRecord:
    return PlainRecord(2, position, 1_700_000_000_000, value, key, {name.replace("_", "-"): text for name, text in headers.items()})


def binary(value: bytes, key: bytes = b"", **headers: bytes | None) -> PlainRecord:
    named = {name.replace("content_type", "content-type"): text for name, text in {**BINARY, **headers}.items() if text is not None}
    return PlainRecord(2, 7, 0, value, key, named)


def told(**fields: Any) -> SendEvent:
    return read_event(record(json.dumps(fields).encode()), NS)


def test_all_fields_arrive_as_they_were_written() -> None:
    value = b'{"name": "paid", "key": "o1", "data": {"b": 1.0, "a": 12345678901234567890}, "id": "e1", "namespace": "acme"}'
    given = record(value, b"other", content_type=b"Application/JSON; charset=utf-8", stepmesh_contract=b"1")
    assert read_event(given, NS) == SendEvent(Namespace("acme"), "paid", "o1", "e1", b'{"b": 1.0, "a": 12345678901234567890}')


def test_by_run_by_the_records_key_or_by_the_name_alone() -> None:
    assert told(name="paid", run=RUN).key == RUN
    assert read_event(record(b'{"name": "paid"}', b"o1"), NS).key == "o1"
    assert read_event(record(b'{"name": "paid", "key": ""}', b"o1"), NS).key == ""
    assert told(name="paid").key == ""


def test_without_an_id_it_is_the_place_where_it_lies() -> None:
    here, again, there = (read_event(record(b'{"name": "paid"}', position=position), NS).id for position in (7, 7, 8))
    assert here == again != there


def test_a_cloud_event_is_told_by_its_value_or_by_its_content_type() -> None:
    value = json.dumps({**CLOUD, "time": "2026-11-22T10:00:00Z", "comexampleextension": 1}).encode()
    wanted = SendEvent(NS, "paid", "o1", "/shop#e1", b'{"n": 1}')
    assert read_event(record(value), NS) == wanted
    assert read_event(record(value, content_type=b"application/cloudevents+json; charset=UTF-8"), NS) == wanted


def test_extensions_of_a_cloud_event_name_a_run_and_a_tenant() -> None:
    assert told(**CLOUD, stepmeshrun=RUN).key == RUN
    assert told(**CLOUD, stepmeshnamespace="acme").namespace == "acme"


def test_a_cloud_event_without_a_subject_has_the_records_key() -> None:
    value = json.dumps({**CLOUD, "subject": None}).encode()
    assert read_event(record(value, b"o2"), NS).key == "o2"
    assert read_event(record(value), NS).key == ""


def test_bytes_of_a_cloud_event_are_passed_on_in_base64() -> None:
    assert told(**{**CLOUD, "data": None}, data_base64="AAE=").data == b'{"base64":"AAE="}'


@pytest.mark.parametrize("more", [0, 1])
def test_source_and_id_make_the_id_whole_as_long_as_it_may_be(more: int) -> None:
    source = "s" * (MAX_ID - len("#e1") + more)
    named = f"{source}#e1"
    assert told(**{**CLOUD, "source": source}).id == (content_id(named.encode()) if more else named)


@pytest.mark.parametrize("prefix", ["ce_", "ce-"])
def test_a_binary_cloud_event_is_its_headers_and_its_value(prefix: str) -> None:
    headers = {name.replace("ce_", prefix): text for name, text in BINARY.items()}
    given = PlainRecord(0, 1, 0, b'{"n":1}', b"", {**headers, "content-type": b"application/json"})
    assert read_event(given, NS) == SendEvent(NS, "paid", "o1", "/shop#e1", b'{"n":1}')
    assert read_event(PlainRecord(0, 1, 0, b"", b"", headers), NS).data == b"null"
    assert read_event(binary(b'"x"', b"o2", ce_subject=None), NS).key == "o2"


@pytest.mark.parametrize(
    "value",
    [
        b"", b"nonsense", b"[]", b"{}", b"null", b'{"key": "o1"}', b'{"name": 1}', b'{"name": "paid", "key": 1}',
        b'{"name": "paid", "id": ""}',
        b'{"name": "paid", "run": "mine"}', b'{"name": "paid", "more": 1}', b'{"name": "paid", "namespace": "a b"}',
        b'{"name": "paid", "data": "\xff"}', b'{"name": "paid"} x', b'{"name": "paid", "key": "o1", "run": "%s"}' % RUN.encode(),
        b'{"specversion": "0.3", "id": "1", "source": "s", "type": "t"}', b'{"specversion": "1.0", "source": "s", "type": "t"}',
        b'{"specversion": "1.0", "id": "1", "source": "", "type": "t"}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused(value: bytes) -> None:
    with pytest.raises(BadEvent) as caught:
        read_event(record(value), NS)
    assert caught.value.code == "SM-5020"
    assert caught.value.hint


@pytest.mark.parametrize(
    "given",
    [
        record(b'{"name": "paid"}', stepmesh_contract=b"2"),
        record(b'{"name": "paid"}', content_type=b"text/plain"),
        binary(b"1", content_type=b"text/plain"),
    ],
)
def test_another_contract_or_content_is_refused(given: PlainRecord) -> None:
    with pytest.raises(BadEvent) as caught:
        read_event(given, NS)
    assert caught.value.code == "SM-5021"


@pytest.mark.parametrize("given", [binary(b"no JSON"), binary(b"1", ce_id=None), binary(b"1", ce_specversion=b"0.3")])
def test_a_binary_cloud_event_that_is_none_is_refused(given: PlainRecord) -> None:
    with pytest.raises(BadEvent) as caught:
        read_event(given, NS)
    assert caught.value.code == "SM-5020"


@pytest.mark.parametrize("value", [b'{"name": "paid"}', json.dumps({**CLOUD, "subject": None}).encode()])
def test_a_key_that_is_no_text_is_refused_where_it_counts(value: bytes) -> None:
    with pytest.raises(BadEvent) as caught:
        read_event(record(value, b"\xff"), NS)
    assert caught.value.code == "SM-5022"
    assert read_event(record(b'{"name": "paid", "key": "o1"}', b"\xff"), NS).key == "o1"


@given(some.binary(max_size=200), some.binary(max_size=20), some.dictionaries(some.sampled_from(list(BINARY)), some.binary(max_size=10)))
def test_whatever_comes_is_an_event_or_refused(value: bytes, key: bytes, headers: dict[str, bytes]) -> None:
    code = ""
    try:
        read_event(PlainRecord(0, 1, 0, value, key, headers), NS)
    except BadEvent as problem:
        code = problem.code
    assert code in {"", "SM-5020", "SM-5021", "SM-5022"}
