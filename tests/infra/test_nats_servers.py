"""The shipped configuration of a NATS cluster, run as three servers: they find each other, and roles find what they need."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.infra.command_lines import INFRA
from tests.services.process import LocalProcess, free_port

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.nats import NatsBroker, NatsSettings, find_nats_server
from stepmesh_broker.protocol.ids import Namespace

NAMES = ("nats-1", "nats-2", "nats-3")


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """Only addresses and the data folder differ from what is shipped."""
    text = (INFRA / "nats" / "server.conf").read_text()
    passwords = re.findall(r"\$(\w+_PASSWORD)", text + (INFRA / "nats" / "accounts.conf").read_text())
    clients, routes = [free_port() for _ in NAMES], [free_port() for _ in NAMES]
    environment = dict.fromkeys(passwords, "secret")
    environment |= {f"ROUTE_{number + 1}": f"nats://routes:secret@127.0.0.1:{port}" for number, port in enumerate(routes)}
    with ExitStack() as stack:
        nodes = []
        for name, client, route in zip(NAMES, clients, routes, strict=True):
            folder, monitor = Path(tmp_path_factory.mktemp(name)), free_port()
            own = text.replace("0.0.0.0:4222", f"127.0.0.1:{client}").replace("0.0.0.0:6222", f"127.0.0.1:{route}")
            own = own.replace("0.0.0.0:8222", f"127.0.0.1:{monitor}").replace("/data", str(folder / "data"))
            (folder / "server.conf").write_text(own)
            (folder / "accounts.conf").write_text((INFRA / "nats" / "accounts.conf").read_text())
            command = [str(find_nats_server()), "--config", "server.conf"]
            node = LocalProcess(command, folder, lambda at=monitor: _healthy(at), {**environment, "SERVER_NAME": name})  # type: ignore[misc]
            stack.callback(node.stop)
            node.spawn()
            nodes.append(node)
        for node in nodes:
            node.wait_ready()
        yield clients


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


async def test_an_orchestrator_makes_its_streams_three_times(ports: list[int]) -> None:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    address = f"nats://orchestrator:secret@{hosts}?inbox=_INBOX_orchestrator"
    broker = NatsBroker(NatsSettings.parse(address, Namespace("default")))
    await broker.connect()
    assert [one["replicas"] for one in await broker.define()] == [3, 3, 3, 3, 3]
    assert broker.max_message_bytes > 30_000_000
    await broker.close()


async def test_nobody_else_gets_in(ports: list[int]) -> None:
    for login in ("", "orchestrator:guess@", "routes:secret@"):
        broker = NatsBroker(NatsSettings.parse(f"nats://{login}127.0.0.1:{ports[0]}", Namespace("default"), connect_timeout_s=1.0))
        with pytest.raises(BrokerUnavailable):
            await broker.connect()
