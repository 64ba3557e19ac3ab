"""`stepmesh topics`: the streams or topics that a deployment needs on its broker, as the code that makes them has them; shown, or made
beforehand.

Orchestrators make them on first use. This is for who wants to see them, to make them under an account of more rights, or to change
the settings of a running namespace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from stepmesh_broker.protocol.ids import Namespace, Pool
from stepmesh_broker.protocol.subjects import checked_name
from stepmesh_cli import exits
from stepmesh_cli.connection import find_url, run_to_end
from stepmesh_cli.errors import CommandError
from stepmesh_cli.tables import print_json, print_table

if TYPE_CHECKING:
    from stepmesh_broker.nats import NatsBroker

Pools = dict[Pool, int | None]
_KAFKA = "kafka://"


def topics(
    *,
    broker: Annotated[str | None, Parameter(env_var="STEPMESH_BROKER")] = None,
    namespace: Annotated[str, Parameter(env_var="STEPMESH_NAMESPACE")] = "default",
    pool: tuple[str, ...] = (),
    apply: bool = False,
    accounts: bool = False,
    json: bool = False,
) -> int:
    """Show the streams or topics that a deployment needs, make them, or print who may do what on them.

    Parameters
    ----------
    broker
        nats://host:port or kafka://host:port; default: STEPMESH_URL, or the nearest `stepmesh up`.
    namespace
        Namespace.
    pool
        Pool whose consumer or topic is made as well, or whose worker gets an account; may be given several times. On Kafka `NAME=N` gives
        its topic N partitions: so many of its workers' sources can work at once.
    apply
        Make what is missing. On NATS, give what is there more replicas or another dedupe window when it should have them; on Kafka, more
        partitions or other settings.
    accounts
        Print users and permissions instead, for a NATS server's configuration or, with --broker kafka://…, for
        kafka-acls.sh; asks no server.
    json
        One JSON object per line.
    """
    pools = dict(map(_sized, pool))
    if accounts:
        print(_accounts(broker or "", Namespace(namespace), tuple(pools)), end="")
        return exits.OK
    url = find_url(broker, None)
    if url.startswith("grpc://"):
        raise CommandError("a gateway has no streams", hint="--broker nats://host:4222")
    show = _kafka if url.startswith(_KAFKA) else _nats
    return run_to_end(show(url, Namespace(namespace), pools, apply=apply, as_json=json))


def _sized(text: str) -> tuple[Pool, int | None]:
    name, equals, number = text.partition("=")
    checked_name("pool", name)
    if equals and not (number.isdecimal() and int(number)):
        raise CommandError(f"--pool {text}: {number!r} is not a number of partitions", hint=f"--pool {name}=16")
    return Pool(name), int(number) if equals else None


def _accounts(broker: str, namespace: Namespace, pools: tuple[Pool, ...]) -> str:
    if broker.startswith(_KAFKA):
        from stepmesh_broker.kafka.permissions import script

        return script(namespace, pools)
    from stepmesh_broker.nats.permissions import accounts

    return accounts(namespace, pools)


async def _nats(url: str, namespace: Namespace, pools: Pools, *, apply: bool, as_json: bool) -> int:
    from stepmesh_broker.nats import NatsBroker, NatsSettings

    if any(pools.values()):
        raise CommandError("a pool has partitions on Kafka only", hint="--pool NAME")
    connection = NatsBroker(NatsSettings.parse(url, namespace))
    await connection.connect()
    try:
        if apply:
            await _apply(connection, pools)
        found = await connection.definitions()
    finally:
        await connection.close()
    rows = ((one["name"], ", ".join(one["subjects"]), one["storage"], one["replicas"], _state(one)) for one in found)
    return _shown(found, ("stream", "subjects", "storage", "replicas", "state"), rows, as_json=as_json)


async def _kafka(url: str, namespace: Namespace, pools: Pools, *, apply: bool, as_json: bool) -> int:
    from stepmesh_broker.kafka import KafkaBroker, KafkaSettings

    connection = KafkaBroker(KafkaSettings.parse(url, namespace))
    await connection.connect()
    try:
        if apply:
            await connection.define(pools)
        found = await connection.definitions(pools)
    finally:
        await connection.close()
    rows = ((one["name"], one["partitions"], one["replicas"] or "as the cluster", _settings(one), _state(one)) for one in found)
    return _shown(found, ("topic", "partitions", "replicas", "settings", "state"), rows, as_json=as_json)


def _shown(found: list[dict[str, Any]], head: tuple[str, ...], rows: Any, *, as_json: bool) -> int:
    if as_json:
        for one in found:
            print_json(one)
    else:
        print_table(head, rows)
    return exits.OK


async def _apply(connection: NatsBroker, pools: Pools) -> None:
    await connection.define()
    for pool in pools:
        await (await connection.tasks(pool)).close()


def _settings(one: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in one["settings"].items())


def _state(one: dict[str, Any]) -> str:
    """What is there and not as wanted; None is no wish."""
    there = one["found"]
    if there is None:
        return "missing"
    wanted = {**one, **one.get("settings", {})}
    told = {**there, **there.get("settings", {})}
    other = [f"{name} {value}" for name, value in told.items() if name != "settings" and wanted[name] not in (value, None)]
    return f"has {', '.join(other)}" if other else "as wanted"
