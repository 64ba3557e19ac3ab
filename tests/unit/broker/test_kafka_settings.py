"""The address of a Kafka cluster, as people write it."""

from __future__ import annotations

import pytest

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.kafka import KafkaSettings
from stepmesh_broker.protocol.ids import Namespace


def test_hosts_credentials_and_options_are_read() -> None:
    settings = KafkaSettings.parse("kafka://me:s%40cret@a:1,b:2?mechanism=plain&instance=worker-3", Namespace("lab"), session_s=5.0)
    assert (settings.bootstrap, settings.namespace, settings.instance, settings.session_s) == (("a:1", "b:2"), "lab", "worker-3", 5.0)
    assert settings.client_options["security_protocol"] == "SASL_PLAINTEXT"
    assert settings.client_options["sasl_plain_password"] == "s@cret"
    assert "s@cret" not in repr(settings)


def test_an_instance_that_is_given_beside_the_address_counts() -> None:
    assert KafkaSettings.parse("kafka://a:1?instance=x", instance="y").instance == "y"
    assert KafkaSettings.parse("kafka://a:1").instance == ""


@pytest.mark.parametrize(
    "url", ["nats://a:1", "kafka://", "kafka://a", "kafka://a:0", "kafka://a:1?color=red", "kafka://a:1?mechanism=MD5"]
)
def test_anything_else_is_refused(url: str) -> None:
    with pytest.raises(BrokerError) as caught:
        KafkaSettings.parse(url)
    assert caught.value.code == "SM-3020"
