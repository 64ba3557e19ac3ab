"""`stepmesh topics` on Kafka, and the files under infra that it prints: they say what the code makes, and the cluster has it then."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from stepmesh_broker.kafka import KafkaBroker, KafkaSettings
from stepmesh_broker.protocol.ids import Namespace, Pool
from stepmesh_cli import exits
from stepmesh_cli.main import main

INFRA = Path(__file__).parents[3] / "infra"


@pytest.fixture
def namespace() -> Namespace:
    return Namespace(f"t{uuid.uuid4().hex[:12]}")


def test_the_accounts_of_infra_are_those_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "--accounts", "--broker", "kafka://", "--pool", "cpu", "--pool", "gpu"]) == exits.OK
    first, second, rest = (INFRA / "kafka" / "acls.sh").read_text().split("\n", 2)
    assert first == "#!/bin/sh"
    assert second.startswith("# Printed by `stepmesh topics --accounts --broker kafka:// --pool cpu --pool gpu`")
    assert rest == capsys.readouterr().out


async def test_the_definitions_of_infra_are_those_of_the_code(kafka_cluster_url: str) -> None:
    broker = KafkaBroker(KafkaSettings.parse(f"{kafka_cluster_url}?replicas=3", Namespace("default")))
    await broker.connect()
    found = await broker.definitions({Pool("cpu"): None, Pool("gpu"): 16})
    await broker.close()
    wanted = [{name: value for name, value in one.items() if name != "found"} for one in found]
    assert json.loads((INFRA / "definitions" / "kafka.json").read_text()) == wanted


def test_topics_are_made_and_shown(kafka_cluster_url: str, namespace: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ["topics", "--broker", f"{kafka_cluster_url}?replicas=2", "--namespace", namespace, "--pool", "cpu", "--pool", "gpu=3"]
    assert main(shown) == exits.OK
    assert capsys.readouterr().out.count(" missing") == 8
    assert main([*shown, "--apply"]) == exits.OK
    assert capsys.readouterr().out.count(" as wanted") == 8
    assert main([*shown, "--json"]) == exits.OK
    found = {
        line["name"].removeprefix(f"stepmesh.{namespace}."): line["found"] for line in map(json.loads, capsys.readouterr().out.splitlines())
    }
    assert {name: one["partitions"] for name, one in found.items()} == {
        "births": 1, "inbox": 16, "submit": 16, "events": 16, "dead": 1, "talk": 16, "tasks.cpu": 8, "tasks.gpu": 3,
    }  # fmt: skip
    assert {one["replicas"] for one in found.values()} == {2}
    assert found["submit"]["settings"]["retention.ms"] == str(7 * 24 * 3600 * 1000)
    assert main(["topics", "--broker", f"{kafka_cluster_url}?replicas=3", *shown[3:]]) == exits.OK
    assert capsys.readouterr().out.count("has replicas 2") == 8


async def test_a_topic_grows_and_gets_its_settings_and_keeps_those_of_its_operator(kafka_url: str, namespace: Namespace) -> None:
    broker = KafkaBroker(KafkaSettings.parse(kafka_url, namespace))
    await broker.connect()
    await broker.define({Pool("gpu"): 2})
    topic = f"stepmesh.{namespace}.tasks.gpu"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://"))
    await admin.start()
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": "1000", "segment.ms": "5000"})])
    async with asyncio.timeout(20):
        while (found := await _found(broker, 4)) is None or found["settings"]["retention.ms"] != "1000":
            await asyncio.sleep(0.05)
    await broker.define({Pool("gpu"): 4})
    async with asyncio.timeout(20):
        while (found := await _found(broker, 4)) is None or found["settings"]["retention.ms"] == "1000" or found["partitions"] != 4:
            await asyncio.sleep(0.05)
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    assert {entry[0]: entry[1] for entry in answer.resources[0][4]}["segment.ms"] == "5000"
    await broker.define({Pool("gpu"): 1})
    found = await _found(broker, 1)
    assert found is not None
    assert found["partitions"] == 4, "never fewer"
    await admin.close()
    await broker.close()


async def _found(broker: KafkaBroker, partitions: int) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (await broker.definitions({Pool("gpu"): partitions}))[-1]["found"]
    return found


@pytest.mark.parametrize("given", ["gpu=0", "gpu=many", "gpu="])
def test_what_is_no_number_of_partitions_is_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "--broker", "kafka://127.0.0.1:1", "--pool", given]) == exits.USAGE
    assert "is not a number of partitions" in capsys.readouterr().err


def test_a_pool_of_nats_has_no_partitions(nats_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "--broker", nats_url, "--pool", "gpu=4"]) == exits.USAGE
    assert "on Kafka only" in capsys.readouterr().err
