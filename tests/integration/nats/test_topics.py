"""`stepmesh topics` and the files under infra that are printed by it: they say what the code makes, and the server has it then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepmesh_broker.nats import NatsBroker, NatsSettings
from stepmesh_broker.protocol.ids import Namespace, Pool
from stepmesh_cli import exits
from stepmesh_cli.main import main

INFRA = Path(__file__).parents[3] / "infra"


def test_the_accounts_of_infra_are_those_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "--accounts", "--pool", "cpu", "--pool", "gpu"]) == exits.OK
    first, _, rest = (INFRA / "nats" / "accounts.conf").read_text().partition("\n")
    assert first.startswith("# Printed by `stepmesh topics --accounts --pool cpu --pool gpu`")
    assert rest == capsys.readouterr().out


async def test_the_definitions_of_infra_are_those_of_the_code(nats_cluster_url: str) -> None:
    broker = NatsBroker(NatsSettings.parse(nats_cluster_url, Namespace("default")))
    await broker.connect()
    wanted = [{name: value for name, value in one.items() if name != "found"} for one in await broker.definitions()]
    await broker.close()
    assert json.loads((INFRA / "definitions" / "nats.json").read_text()) == wanted


def test_streams_and_consumers_are_made(nats_url: str, namespace: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ["topics", "--broker", nats_url, "--namespace", namespace]
    assert main(shown) == exits.OK
    assert capsys.readouterr().out.count(" missing") == 5
    assert main([*shown, "--apply", "--pool", "cpu"]) == exits.OK
    assert capsys.readouterr().out.count(" as wanted") == 5
    assert main([*shown, "--json"]) == exits.OK
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == [f"stepmesh_{namespace}_{kind}" for kind in ("tasks", "inbox", "submit", "events", "dead")]
    assert [line["found"]["replicas"] for line in lines] == [1, 1, 1, 1, 1]
    assert main([*shown[:2], f"{nats_url}?replicas=3", *shown[3:]]) == exits.OK
    assert capsys.readouterr().out.count("has replicas 1") == 5


async def test_a_pool_that_was_made_has_its_consumer(nats_url: str, namespace: Namespace) -> None:
    broker = NatsBroker(NatsSettings.parse(nats_url, namespace))
    await broker.connect()
    made = await broker.define()
    await (await broker.tasks(Pool("cpu"))).close()
    assert [one["retention"] for one in made] == ["workqueue", "workqueue", "workqueue", "workqueue", "limits"]
    assert (await broker.depth(Pool("cpu")))[:2] == (0, 0)
    await broker.close()


def test_a_gateway_has_no_streams(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "--broker", "grpc://127.0.0.1:1"]) == exits.USAGE
    assert "a gateway has no streams" in capsys.readouterr().err
