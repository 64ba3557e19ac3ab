"""Where the broker is looked for, and run ids."""

from __future__ import annotations

import sys
import time
import uuid
from types import SimpleNamespace

import pytest

from stepmesh import Client, EndpointNotFound, endpoint, uuid7
from stepmesh.errors import PackageMissing, UnknownAddress
from stepmesh_broker.nats import NatsBroker
from stepmesh_broker.protocol.ids import partition_of


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(endpoint.VARIABLE, raising=False)


def write(folder, text):
    path = folder / endpoint.FILE
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_an_argument_wins_then_the_environment_then_the_nearest_folder(tmp_path, monkeypatch):
    write(tmp_path, '{"url": "nats://outer:1", "port": 1}')
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert endpoint.find(start=inner) == "nats://outer:1"
    write(tmp_path / "a", '{"url": "nats://inner:1"}')
    assert endpoint.find(start=inner) == "nats://inner:1"
    monkeypatch.setenv(endpoint.VARIABLE, "nats://env:1")
    assert endpoint.find(start=inner) == "nats://env:1"
    assert endpoint.find("nats://given:1", start=inner) == "nats://given:1"


def test_nothing_found_says_where_it_looked_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EndpointNotFound) as caught:
        Client.connect()
    assert caught.value.code == "SM-0110"
    assert str(tmp_path) in str(caught.value)
    assert "stepmesh up" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": 5}'])
def test_a_broken_endpoint_file_is_named(tmp_path, text):
    write(tmp_path, text)
    with pytest.raises(EndpointNotFound) as caught:
        endpoint.find(start=tmp_path)
    assert "endpoint.json" in str(caught.value)


def test_run_ids_are_uuid7_of_now():
    before = time.time_ns() // 1_000_000
    run = uuid.UUID(uuid7.new_run_id())
    after = time.time_ns() // 1_000_000
    assert run.version == 7
    assert run.variant == uuid.RFC_4122
    assert before <= run.int >> 80 <= after


def test_run_ids_are_sorted_as_they_were_made():
    made = [uuid7.new_run_id() for _ in range(10_000)]
    assert made == sorted(set(made))


def test_run_ids_are_sorted_when_the_clock_steps_back(monkeypatch):
    before = uuid7.new_run_id()
    monkeypatch.setattr(uuid7, "time", SimpleNamespace(time_ns=lambda: 1))
    assert before < uuid7.new_run_id() < uuid7.new_run_id()


@pytest.mark.parametrize("partition", [0, 5, 15])
def test_run_ids_for_a_partition(partition):
    assert partition_of(uuid7.new_run_id_on(partition, 16), 16) == partition


@pytest.mark.parametrize("url", ["nats://a:1", "a:1", "a", "nats://a:1,b:2", "tls://a:1"])
def test_nats_is_what_has_no_other_scheme(url):
    assert isinstance(endpoint.connection(url, "default"), NatsBroker)


def test_kafka_by_its_scheme_and_without_its_package(monkeypatch):
    assert type(endpoint.connection("kafka://a:9092,b:9092?replicas=3", "default")).__name__ == "KafkaBroker"
    for name in [name for name in sys.modules if name.startswith("stepmesh_broker.kafka")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiokafka", None)
    with pytest.raises(PackageMissing) as caught:
        endpoint.connection("kafka://a:9092", "default")
    assert (caught.value.code, caught.value.hint) == ("SM-0115", "pip install 'stepmesh[kafka]'")


@pytest.mark.parametrize("url", ["amqp://host", "ws://host:1", "http://host:1", "://host"])
def test_an_address_of_no_broker_is_refused(url):
    with pytest.raises(UnknownAddress) as caught:
        endpoint.connection(url, "default")
    assert caught.value.code == "SM-0150"
    assert "kafka://" in caught.value.hint
