"""A NATS address with its options: what is read from it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.nats import NatsSettings
from stepmesh_broker.protocol.ids import Namespace


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("nats://127.0.0.1:4222", ("nats://127.0.0.1:4222",)),
        ("nats://a:1,b:2,c", ("nats://a:1", "nats://b:2", "nats://c:4222")),
        ("nats://a:1,nats://b:65535/", ("nats://a:1", "nats://b:65535")),
        ("a:1", ("nats://a:1",)),
        ("nats://[::1]:1,[::2]", ("nats://[::1]:1", "nats://[::2]:4222")),
    ],
)
def test_hosts(url: str, hosts: tuple[str, ...]) -> None:
    assert NatsSettings.parse(url).url == hosts


def test_who_one_is() -> None:
    both = NatsSettings.parse("nats://me:p%40s%2Cs@a:1,b:2", Namespace("team"))
    assert (both.user, both.password, both.token, both.namespace) == ("me", "p@s,s", None, "team")
    assert NatsSettings.parse("nats://t0k%3Aen@a:1").token == "t0k:en"
    assert NatsSettings.parse("nats://a:1?credentials=/etc/user.creds").credentials_file == "/etc/user.creds"
    assert "p@s" not in repr(both)
    assert [NatsSettings.parse(f"nats://a:1{option}").inbox_prefix for option in ("", "?inbox=" + "x" * 64)] == ["_INBOX", "x" * 64]


def test_tls_is_on_when_it_is_named() -> None:
    assert NatsSettings.parse("nats://a:1").tls is None
    assert NatsSettings.parse("nats://a:1?tls=false").tls is None
    for url in ("tls://a:1", "nats://a:1?tls=true", "nats://a:1,tls://b:2"):
        context = NatsSettings.parse(url).tls
        assert context is not None
        assert context.check_hostname


def test_replicas_are_given_in_the_url_or_beside_it() -> None:
    assert NatsSettings.parse("nats://a:1").replicas is None
    assert [NatsSettings.parse(f"nats://a:1?replicas={number}").replicas for number in (1, 5)] == [1, 5]
    assert NatsSettings.parse("nats://a:1?replicas=1", replicas=3).replicas == 3


@pytest.mark.parametrize(
    "url",
    [
        "",
        "kafka://a:1",
        "nats://",
        "nats://:4222",
        "nats://a:0",
        "nats://a:65536",
        "nats://a:x",
        "nats://a:1,",
        "nats://a:1/path",
        "nats://a:1?replicas=0",
        "nats://a:1?replicas=6",
        "nats://a:1?replicas=",
        "nats://a:1?user=x",
        "nats://a:1?inbox=a.b",
        "nats://a:1?inbox=",
        "nats://a:1?inbox=" + "x" * 65,
        "nats://a:1?ca=/nowhere.pem",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(BrokerError) as caught:
        NatsSettings.parse(url)
    assert caught.value.code == "SM-3040"
    assert "nats://" in caught.value.hint


def test_a_refusal_keeps_the_password(tmp_path: Path) -> None:
    for url in ("nats://me:secret@a:x", f"nats://me:secret@a:1?ca={tmp_path}/none", "nats://me:secret@a:1?x=1", "bad://me:secret@a"):
        with pytest.raises(BrokerError) as caught:
            NatsSettings.parse(url)
        assert "secret" not in str(caught.value)
