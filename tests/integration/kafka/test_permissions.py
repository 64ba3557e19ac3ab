"""A cluster that lets nobody in without SASL and nobody do anything without an ACL, and the roles with those of infra/kafka: each can do
what it needs, and is refused what it must not."""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from aiokafka.protocol.admin import CreateAclsRequest
from tests.services.kafka import KafkaServers

from stepmesh import Client, Worker
from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.kafka import KafkaBroker, KafkaSettings
from stepmesh_broker.kafka.topic_log import NoAnswer, TopicLogs
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position
from stepmesh_broker.protocol.records import Topic
from stepmesh_cli import exits
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.main import main

ACLS = Path(__file__).parents[3] / "infra" / "kafka" / "acls.sh"
NAMESPACE = Namespace("default")
FLOW = {"name": "double", "steps": [{"id": "a", "component": "/cpu/double", "input": {"$input": "$"}}], "output": {"$step": "a"}}
ROLES = ("orchestrator", "gateway", "client", "producer", "projector", "worker-cpu", "worker-gpu")
PASSWORDS = {name: f"{name}-secret" for name in ("admin", *ROLES)}
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required"
SECURED = (
    "listener.security.protocol.map=PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
    "sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN",
    "sasl.mechanism.inter.broker.protocol=PLAIN",
    f'listener.name.plaintext.plain.sasl.jaas.config={_PLAIN} username="broker" password="b" user_broker="b" user_client="plain-secret";',
    f"listener.name.plaintext.scram-sha-512.sasl.jaas.config={_SCRAM};",
    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users=User:admin;User:broker;User:ANONYMOUS",  # ANONYMOUS: only controllers have a listener without SASL
    "allow.everyone.if.no.acl.found=false",
)
_KINDS = {"topic": 2, "group": 3}
_OPERATIONS = {"All": 2, "Read": 3, "Write": 4, "DescribeConfigs": 10}
_LITERAL, _PREFIXED, _ALLOW = 3, 4, 3


def url(server: KafkaServers, role: str, password: str = "", **options: str) -> str:
    more = "&".join(f"{name}={value}" for name, value in options.items())
    return f"kafka://{role}:{password or PASSWORDS[role]}@127.0.0.1:{server.ports[0]}?{more}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServers]:
    """With the ACLs that infra ships, and the topics that `stepmesh topics --apply` makes."""
    with KafkaServers(tmp_path_factory.mktemp("kafka"), settings=SECURED, users=PASSWORDS) as servers:
        asyncio.run(_allow(servers))
        applied = ["topics", "--broker", url(servers, "orchestrator"), "--pool", "cpu", "--pool", "gpu=4", "--apply"]
        until = time.monotonic() + 30
        while main(applied) != exits.OK:  # the broker hears of its ACLs a moment later
            assert time.monotonic() < until
        yield servers


async def _allow(server: KafkaServers) -> None:
    """What the script says, by Kafka's protocol: its own tool starts a Java program for each line."""
    lines = [shlex.split(line)[1:] for line in ACLS.read_text().splitlines() if line.startswith("allow --")]
    assert len(lines) > 20
    admin = AIOKafkaAdminClient(**KafkaSettings.parse(url(server, "admin")).client_options)
    await admin.start()
    for entry in [entry for line in lines for entry in _entries(line)]:
        answer = await admin._send_request(CreateAclsRequest(*entry))
        assert answer.creation_responses[0][0] == 0, answer
    await admin.close()


def _entries(line: list[str]) -> list[Any]:
    given = list(zip(line[::2], line[1::2], strict=True))
    named = dict(given)
    kind = "topic" if "--topic" in named else "group"
    pattern = {"prefixed": _PREFIXED}.get(named.get("--resource-pattern-type", ""), _LITERAL)
    return [
        (_KINDS[kind], named[f"--{kind}"], pattern, named["--allow-principal"], "*", _OPERATIONS[value], _ALLOW)
        for name, value in given
        if name == "--operation"
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for all deployments of the one journal."""
    return f"sqlite:{tmp_path_factory.mktemp('store') / 'store.db'}"


async def broker(server: KafkaServers, role: str) -> KafkaBroker:
    made = KafkaBroker(KafkaSettings.parse(url(server, role), NAMESPACE, publish_timeout_s=3.0))
    await made.connect()
    return made


@pytest.fixture
async def deployment(server: KafkaServers, store: str) -> AsyncIterator[Deployment]:
    at = url(server, "orchestrator")
    settings = DeploymentSettings(broker=at, journal=at, store=store, namespace=NAMESPACE, ttl_s=3.0)
    async with Deployment(settings) as made:
        yield made


async def test_a_run_goes_through_with_nothing_more_than_that(server: KafkaServers, deployment: Deployment) -> None:
    worker = Worker("cpu", namespace=NAMESPACE)

    @worker.component
    async def double(n: int) -> int:
        return n * 2

    at = await broker(server, "worker-cpu")
    working = asyncio.ensure_future(worker.run(at))
    async with Client.connect(url(server, "client"), namespace=NAMESPACE) as client:
        assert await client.run(FLOW, 21, timeout=60) == 42
        producer = AIOKafkaProducer(**KafkaSettings.parse(url(server, "producer")).client_options, enable_idempotence=True)
        async with producer:
            await producer.send_and_wait("stepmesh.default.submit", json.dumps({"flow": FLOW, "input": [4]}).encode(), key=b"eight")
        async with asyncio.timeout(60):
            while not (found := [run for run in await client.list_runs(status="completed") if run.run_key == "eight"]):
                await asyncio.sleep(0.1)
        assert await client.handle(found[0].run).result() == 8
    worker.stop()
    await working
    await at.close()


Calls = Callable[[KafkaBroker], list[Callable[[], Awaitable[object]]]]


def _worker_may_not(it: KafkaBroker) -> list[Callable[[], Awaitable[object]]]:
    return [
        lambda: it.publish_tasks(Pool("gpu"), b"x", "1"),
        lambda: it.publish_tasks(Pool("new"), b"x", "1"),
        lambda: it.depth(Pool("gpu")),
        lambda: it.define({Pool("new"): 1}),
        lambda: it.records(Topic.SUBMIT, Partition(0), 1),
    ]


def _client_may_not(it: KafkaBroker) -> list[Callable[[], Awaitable[object]]]:
    return [
        *_worker_may_not(it),
        lambda: it.post(Partition(0), b"x"),
        lambda: it.inbox(Partition(0), Position(0)),
        lambda: it.park(Pool("cpu"), b"x", "r"),
        lambda: it.publish_tasks(Pool("cpu"), b"x", "1"),
        lambda: it.incarnation(),
    ]


@pytest.mark.parametrize(("role", "calls"), [("worker-cpu", _worker_may_not), ("client", _client_may_not)])
async def test_what_is_not_theirs_is_refused(server: KafkaServers, role: str, calls: Calls) -> None:
    it = await broker(server, role)
    for call in calls(it):
        async with asyncio.timeout(30):
            with pytest.raises(BrokerError) as caught:
                await call()
        assert caught.value.code == "SM-3053", caught.value
    await it.close()


READABLE = {
    "gateway": {"births", "talk", "tasks.cpu", "tasks.gpu"},
    "client": {"talk"},
    "producer": set[str](),
    "projector": {"journal"},
    "worker-cpu": {"births", "talk", "tasks.cpu"},
    "worker-gpu": {"births", "talk", "tasks.gpu"},
}
WRITABLE = {
    "gateway": {"talk", "tasks.cpu", "tasks.gpu", "inbox", "dead"},
    "client": {"talk"},
    "producer": {"submit", "events"},
    "projector": set[str](),
    "worker-cpu": {"talk", "tasks.cpu", "inbox", "dead"},
    "worker-gpu": {"talk", "tasks.gpu", "inbox", "dead"},
}
TOPICS = ("births", "inbox", "submit", "events", "dead", "talk", "tasks.cpu", "tasks.gpu", "journal", "snapshots", "members")


@pytest.mark.parametrize("role", READABLE)
async def test_each_role_reads_and_writes_its_own_topics_and_no_others(server: KafkaServers, deployment: Deployment, role: str) -> None:
    """By Kafka's own answers, past all that Stepmesh does."""
    settings = KafkaSettings.parse(url(server, role))
    logs = TopicLogs(settings, patience_s=1.0)
    await logs.open()
    assert await _allowed(TOPICS, lambda topic: logs.fetch(topic, 0, 0)) == READABLE[role]
    await logs.close()
    assert await _allowed(TOPICS, lambda topic: _writes(settings.client_options, topic)) == WRITABLE[role]


@pytest.mark.parametrize(
    ("role", "groups"), [("worker-cpu", {"tasks.cpu"}), ("gateway", {"tasks.cpu", "tasks.gpu"}), ("client", set[str]())]
)
async def test_each_role_joins_its_own_groups_and_no_others(server: KafkaServers, role: str, groups: set[str]) -> None:
    options = KafkaSettings.parse(url(server, role)).client_options
    assert await _allowed(("tasks.cpu", "tasks.gpu", "submit"), lambda group: _asks_group(options, group)) == groups


async def _allowed(names: tuple[str, ...], call: Callable[[str], Awaitable[object]]) -> set[str]:
    found: set[str] = set()
    for name in names:
        try:
            await call(f"stepmesh.default.{name}")
        except (NoAnswer, TopicAuthorizationFailedError, GroupAuthorizationFailedError):
            continue
        found.add(name)
    return found


async def _writes(options: dict[str, Any], topic: str) -> None:
    producer = AIOKafkaProducer(**options)
    await producer.start()
    try:
        await producer.send_and_wait(topic, b"x", b"key", partition=0)  # compacted topics want one
    finally:
        await producer.stop()


async def _asks_group(options: dict[str, Any], group: str) -> None:
    consumer = AIOKafkaConsumer(**options, group_id=group)
    await consumer.start()
    try:
        await consumer.committed(TopicPartition("stepmesh.default.talk", 0))
    finally:
        await consumer.stop()


@pytest.mark.parametrize(
    ("role", "password", "options"),
    [
        ("client", "wrong", {}),
        ("nobody", "x", {}),
        ("client", "wrong", {"mechanism": "PLAIN"}),
        ("client", "plain-secret", {"mechanism": "SCRAM-SHA-256"}),
    ],
)
async def test_who_is_not_known_is_not_let_in(server: KafkaServers, role: str, password: str, options: dict[str, str]) -> None:
    made = KafkaBroker(KafkaSettings.parse(url(server, role, password, **options), NAMESPACE))
    with pytest.raises(BrokerUnavailable) as caught:
        await made.connect()
    assert "password" in caught.value.hint


async def test_a_user_of_the_mechanism_plain_is_let_in(server: KafkaServers, deployment: Deployment) -> None:
    async with Client.connect(url(server, "client", "plain-secret", mechanism="PLAIN"), namespace=NAMESPACE) as client:
        assert await client.list_runs(limit=1) is not None


async def test_without_sasl_nobody_is_let_in(server: KafkaServers) -> None:
    made = KafkaBroker(KafkaSettings.parse(f"kafka://127.0.0.1:{server.ports[0]}", NAMESPACE, connect_timeout_s=3.0))
    with pytest.raises(BrokerUnavailable):
        await made.connect()
