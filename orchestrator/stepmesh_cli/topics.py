"""`stepmesh topics`: the streams that a deployment needs on its broker, as the code that makes them has them; shown, or made beforehand.

Orchestrators make them on first use. This is for who wants to see them, to make them under an account of more rights, or to change
the settings of a running namespace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from stepmesh_broker.protocol.ids import Namespace, Pool
from stepmesh_cli import exits
from stepmesh_cli.connection import find_url, run_to_end
from stepmesh_cli.errors import CommandError
from stepmesh_cli.tables import print_json, print_table

if TYPE_CHECKING:
    from stepmesh_broker.nats import NatsBroker


def topics(
    *,
    broker: Annotated[str | None, Parameter(env_var="STEPMESH_BROKER")] = None,
    namespace: Annotated[str, Parameter(env_var="STEPMESH_NAMESPACE")] = "default",
    pool: tuple[str, ...] = (),
    apply: bool = False,
    accounts: bool = False,
    json: bool = False,
) -> int:
    """Show the streams that a deployment needs, make them, or print who may do what on them.

    Parameters
    ----------
    broker
        nats://host:port; default: STEPMESH_URL, or the nearest `stepmesh up`.
    namespace
        Namespace.
    pool
        Pool whose consumer is made as well, or whose worker gets an account; may be given several times.
    apply
        Make what is missing; give what is there more replicas or another dedupe window when it should have them.
    accounts
        Print users and permissions for a NATS server's configuration instead; asks no server.
    json
        One JSON object per line.
    """
    pools = tuple(Pool(name) for name in pool)
    if accounts:
        from stepmesh_broker.nats.permissions import accounts as configuration

        print(configuration(Namespace(namespace), pools), end="")
        return exits.OK
    return run_to_end(_topics(find_url(broker, None), Namespace(namespace), pools, apply=apply, as_json=json))


async def _topics(url: str, namespace: Namespace, pools: tuple[Pool, ...], *, apply: bool, as_json: bool) -> int:
    from stepmesh_broker.nats import NatsBroker, NatsSettings

    if url.startswith("grpc://"):
        raise CommandError("a gateway has no streams", hint="--broker nats://host:4222")
    connection = NatsBroker(NatsSettings.parse(url, namespace))
    await connection.connect()
    try:
        if apply:
            await _apply(connection, pools)
        found = await connection.definitions()
    finally:
        await connection.close()
    if as_json:
        for one in found:
            print_json(one)
    else:
        rows = ((one["name"], ", ".join(one["subjects"]), one["storage"], one["replicas"], _state(one)) for one in found)
        print_table(("stream", "subjects", "storage", "replicas", "state"), rows)
    return exits.OK


async def _apply(connection: NatsBroker, pools: tuple[Pool, ...]) -> None:
    await connection.define()
    for pool in pools:
        await (await connection.tasks(pool)).close()


def _state(one: dict[str, Any]) -> str:
    there = one["found"]
    if there is None:
        return "missing"
    other = [f"{name} {value}" for name, value in there.items() if value != one[name]]
    return f"has {', '.join(other)}" if other else "as wanted"
