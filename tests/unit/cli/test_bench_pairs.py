"""Which pairs of broker and journal the table measures, and why not the others."""

from __future__ import annotations

import pytest
from tests.acceptance.pairs import PAIRS

from stepmesh_cli.bench.pairs import pairs

URLS = {
    "nats": "nats://h:4222", "nats-cluster": "nats://h:1,nats://h:2,nats://h:3", "kafka": "kafka://h:9092", "kafka-cluster": "kafka://h:1,h:2,h:3",
    "postgres": "postgres://u@h/d", "redis": "redis://h:6379/0",
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_every_pair_on_which_the_conformance_flows_run_makes_sense(pair: object) -> None:
    broker, journal = (URLS.get(name, name) for name in str(pair).rsplit("-", 1))
    assert [one.nonsense for one in pairs([broker], [journal])] == [""]


@pytest.mark.parametrize(
    ("broker", "journal", "why"),
    [
        ("memory", "broker", "keeps nothing"),
        ("memory", URLS["nats"], "could carry the tasks"),
        ("memory", URLS["kafka"], "could carry the tasks"),
        (URLS["kafka"], URLS["nats"], "two message systems"),
        (URLS["nats"], URLS["kafka"], "two message systems"),
        ("embedded", URLS["kafka"], "two message systems"),
        ("tls://h:4222", URLS["kafka"], "two message systems"),
        (URLS["kafka-cluster"], URLS["kafka"], "the part that is lost"),
        (URLS["nats-cluster"], "tls://h:4222", "the part that is lost"),
        (URLS["nats-cluster"], "memory", "nobody reads"),
        (URLS["kafka-cluster"] + "?replicas=3", "memory", "nobody reads"),
    ],
)
def test_a_pair_that_makes_no_sense_says_why(broker: str, journal: str, why: str) -> None:
    (pair,) = pairs([broker], [journal])
    assert why in pair.nonsense


def test_each_broker_meets_each_journal_once_in_the_order_given() -> None:
    found = pairs(["memory", "embedded", "memory"], ["sqlite", "memory", "sqlite"])
    assert [one[:2] for one in found] == [("memory", "sqlite"), ("memory", "memory"), ("embedded", "sqlite"), ("embedded", "memory")]


def test_the_journal_on_a_cluster_beside_one_server_of_its_kind_is_measured() -> None:
    assert [one.nonsense for one in pairs([URLS["kafka"]], [URLS["kafka-cluster"]])] == [""]
