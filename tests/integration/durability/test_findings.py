"""What `stepmesh doctor` reads of real servers, and what it says of bad settings."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from tests.services.nats import NatsServers

from stepmesh_broker.durability import NOT_VISIBLE, Finding
from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.kafka import KafkaBroker, KafkaSettings
from stepmesh_broker.kafka import durability as kafka
from stepmesh_broker.nats import EmbeddedNats, NatsBroker, NatsSettings
from stepmesh_broker.nats import durability as nats
from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_cli.main import main
from stepmesh_orchestrator.journal import postgres_durability, redis_durability
from stepmesh_orchestrator.ports import JournalError


def named(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def fresh() -> Namespace:
    return Namespace(f"t{uuid.uuid4().hex[:12]}")


async def used(settings: NatsSettings) -> None:
    """An inbox and a pool of the namespace are there."""
    broker = NatsBroker(settings)
    await broker.connect()
    await broker.post(Partition(0), b"x")
    await broker.close()


async def test_nats_tells_a_client_of_streams_and_not_of_flushes(nats_url: str) -> None:
    settings = NatsSettings.parse(nats_url, fresh())
    await used(settings)
    found = named(await nats.examine(settings))
    assert found["nats sync_interval"].value == NOT_VISIBLE
    assert "--monitor" in found["nats sync_interval"].fix
    assert found["nats stream inbox"].value == "1 replica, file"
    assert "results that were not journaled run again" in found["nats stream inbox"].means


async def test_nats_streams_of_others_are_not_told(nats_url: str) -> None:
    await used(NatsSettings.parse(nats_url, fresh()))
    found = named(await nats.examine(NatsSettings.parse(nats_url, fresh())))
    assert found["nats streams"].value.startswith("none of namespace")


async def test_nats_replicas_on_a_cluster(nats_cluster_url: str) -> None:
    settings = NatsSettings.parse(f"{nats_cluster_url}?replicas=3", fresh())
    await used(settings)
    found = named(await nats.examine(settings))
    assert found["nats stream inbox"] == Finding("nats stream inbox", "3 replicas, file")


@pytest.mark.parametrize("always", [True, False])
async def test_the_file_of_an_embedded_server_tells_how_often_it_flushes(always: bool, tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path, sync_always=always) as server:
        found = named(await nats.examine(NatsSettings.parse(server.url, fresh()), config=tmp_path / "nats" / "server.conf"))
    assert found["nats sync_interval"].value == ("always" if always else "120 s")
    assert (found["nats sync_interval"].means == "") is always
    assert found["nats max_payload"].means == ""


async def test_the_monitoring_port_of_nats_tells_how_often_it_flushes(tmp_path: Path) -> None:
    with NatsServers(tmp_path) as server:
        monitor = f"http://127.0.0.1:{server._monitors[0]}"
        found = named(await nats.examine(NatsSettings.parse(server.url, fresh()), monitor=monitor))
        assert (found["nats sync_interval"].value, "power loss takes the last 120 s" in found["nats sync_interval"].means) == (
            "120 s",
            True,
        )
        wrong = named(await nats.examine(NatsSettings.parse(server.url, fresh()), monitor="http://127.0.0.1:1"))
        assert (wrong["nats sync_interval"].value, wrong["nats sync_interval"].fix) == (NOT_VISIBLE, "check --monitor")


async def test_nobody_at_the_address() -> None:
    with pytest.raises(BrokerUnavailable):
        await nats.examine(NatsSettings.parse("nats://127.0.0.1:1"))
    with pytest.raises(BrokerUnavailable):
        await kafka.examine(KafkaSettings.parse("kafka://127.0.0.1:1"))
    for asked, code in ((postgres_durability, "SM-0154"), (redis_durability, "SM-0155")):
        scheme = "postgres" if asked is postgres_durability else "redis"
        with pytest.raises(JournalError) as caught:
            await asked.examine(f"{scheme}://me:secret@127.0.0.1:1/0")
        assert caught.value.code == code
        assert "secret" not in str(caught.value)


async def test_one_broker_of_kafka(kafka_url: str) -> None:
    found = named(await kafka.examine(KafkaSettings.parse(kafka_url, fresh())))
    assert found["kafka brokers"] == Finding("kafka brokers", "1", "the loss of the only one stops everything", "3 brokers")
    assert found["kafka unclean.leader.election"].value == "false"
    assert found["kafka acks"].value == "all"
    assert {"kafka min.insync.replicas", "kafka message.max.bytes", "kafka log.flush.interval.messages"} <= found.keys()


@pytest.mark.parametrize(
    ("said", "replicas", "told"),
    [
        ({"min.insync.replicas": "1"}, 3, "what one broker acknowledged while the others were away is lost with it"),
        ({"min.insync.replicas": "2"}, 3, ""),
        ({"min.insync.replicas": "3"}, 3, "no write succeeds while one broker is away"),
        ({"min.insync.replicas": "1"}, 1, ""),
    ],
)
def test_what_the_least_number_of_replicas_means(said: dict[str, str | None], replicas: int, told: str) -> None:
    assert named(list(kafka.of_settings(said, replicas)))["kafka min.insync.replicas"].means == told


@pytest.mark.parametrize(("flush", "replicas", "told"), [("1", 1, ""), ("9", 1, "it alone has"), ("9", 3, "of all replicas at once")])
def test_what_flushing_seldom_means(flush: str, replicas: int, told: str) -> None:
    means = named(list(kafka.of_settings({"log.flush.interval.messages": flush}, replicas)))["kafka log.flush.interval.messages"].means
    assert told in means
    assert bool(told) == bool(means)


def test_an_unclean_election_loses() -> None:
    found = named(list(kafka.of_settings({"unclean.leader.election.enable": "true", "log.flush.interval.messages": "1"}, 3)))
    assert "acknowledged records are lost" in found["kafka unclean.leader.election"].means
    assert found["kafka log.flush.interval.messages"].means == ""


async def test_postgres_as_its_connection_sees_it(postgres_url: str) -> None:
    found = named(await postgres_durability.examine(postgres_url))
    assert (found["postgres fsync"].means, found["postgres synchronous_commit"].means) == ("", "")
    assert found["postgres synchronous_standby_names"].value == "none"
    joined = "&" if "?" in postgres_url else "?"
    off = named(await postgres_durability.examine(f"{postgres_url}{joined}options=-csynchronous_commit%3Doff"))
    assert "last moments" in off["postgres synchronous_commit"].means


@pytest.mark.parametrize(
    ("changed", "name", "told"),
    [
        ({"fsync": "off"}, "postgres fsync", "destroy the whole database"),
        ({"full_page_writes": "off"}, "postgres full_page_writes", "destroy what was there"),
        ({"synchronous_standby_names": "s1", "synchronous_commit": "local"}, "postgres synchronous_standby_names", "does not wait"),
        ({"synchronous_standby_names": "s1"}, "postgres synchronous_standby_names", ""),
    ],
)
def test_what_settings_of_postgres_mean(changed: dict[str, str], name: str, told: str) -> None:
    good = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "synchronous_standby_names": "", "server_version": "17"}
    means = named(postgres_durability.findings({**good, **changed}))[name].means
    assert told in means
    assert bool(told) == bool(means)


async def test_redis_as_it_runs(redis_url: str) -> None:
    found = named(await redis_durability.examine(redis_url))
    assert (found["redis appendonly"].value, found["redis appendfsync"].value) == ("yes", "always")
    assert "takes every run" in found["redis replicas"].means


@pytest.mark.parametrize(
    ("changed", "name", "told"),
    [
        ({"appendonly": "no"}, "redis appendonly", "since the last snapshot"),
        ({"appendfsync": "everysec"}, "redis appendfsync", "last second or two"),
        ({"appendfsync": "no"}, "redis appendfsync", "had not flushed"),
        ({"maxmemory": "1000", "maxmemory-policy": "allkeys-lru"}, "redis maxmemory-policy", "throws journals away"),
        ({"maxmemory": "0", "maxmemory-policy": "allkeys-lru"}, "redis maxmemory-policy", ""),
        ({"maxmemory": "1000"}, "redis maxmemory-policy", ""),
    ],
)
def test_what_settings_of_redis_mean(changed: dict[str, str], name: str, told: str) -> None:
    good = {"appendonly": "yes", "appendfsync": "always", "maxmemory": "0", "maxmemory-policy": "noeviction"}
    means = named(list(redis_durability.findings({**good, **changed}, 1)))[name].means
    assert told in means
    assert bool(told) == bool(means)


def test_a_redis_that_does_not_tell() -> None:
    assert named(list(redis_durability.findings({}, 0)))["redis appendfsync"].value == NOT_VISIBLE


def test_doctor_asks_broker_and_journal(
    nats_url: str, postgres_url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["doctor", "--json", "--url", nats_url, "--journal", postgres_url, "--namespace", fresh()])
    checks = {check["name"]: check for check in map(json.loads, capsys.readouterr().out.splitlines())}
    assert checks["nats sync_interval"]["state"] == "warning"
    assert checks["postgres fsync"] == {"name": "postgres fsync", "state": "ok", "found": "on", "fix": ""}


def test_doctor_says_what_cannot_be_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    assert main(["doctor", "--json", "--journal", "postgres://me:secret@127.0.0.1:1/x"]) == 1
    said = capsys.readouterr().out
    checks = {check["name"]: check for check in map(json.loads, said.splitlines())}
    assert checks["postgres://127.0.0.1:1/x"]["state"] == "failed"
    assert "secret" not in said


async def test_three_brokers_of_kafka(kafka_cluster_url: str) -> None:
    namespace = fresh()
    broker = KafkaBroker(KafkaSettings.parse(f"{kafka_cluster_url}?replicas=3", namespace))
    await broker.connect()
    await broker.post(Partition(0), b"x")
    await broker.close()
    found = named(await kafka.examine(KafkaSettings.parse(kafka_cluster_url, namespace)))
    assert found["kafka brokers"] == Finding("kafka brokers", "3")
    ours = [finding for name, finding in found.items() if name.startswith(f"kafka topic stepmesh.{namespace}.inbox")]
    assert [finding.value for finding in ours] == ["3 replicas"]
