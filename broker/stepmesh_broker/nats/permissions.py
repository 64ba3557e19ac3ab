"""What a user of a NATS server must be allowed to do, by role; everything else may be forbidden. `infra/nats` has it written down.

Each role hears answers under a prefix of its own (`inbox=` of a URL), so that none can listen to the answers of another. Invariant:
names come from where they are made. It must not know how a server is configured beyond the words of its permissions.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepmesh_broker.nats.streams import Names
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool
from stepmesh_broker.protocol.records import Topic

_API = "$JS.API"


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """`responses`: may answer what it was asked, wherever the answer goes."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    responses: bool = False

    def conf(self) -> str:
        """As the value of `permissions` in the server's configuration."""
        lists = ", ".join(f"{kind}: [{_quoted(found)}]" for kind, found in (("publish", self.publish), ("subscribe", self.subscribe)))
        answers = ', allow_responses: { max: 1, expires: "10m" }' if self.responses else ""
        return f"{{ {lists}{answers} }}"


def orchestrator(namespace: Namespace, inbox: str) -> Permissions:
    """Rules its namespace: makes its streams, reads all inboxes. Namespaces that must not see each other have accounts of their own."""
    everything = f"stepmesh.{namespace}.>"
    return Permissions(publish=(everything, f"{_API}.>", "$JS.ACK.>"), subscribe=(everything, f"{inbox}.>"), responses=True)


def worker(namespace: Namespace, pool: Pool, inbox: str) -> Permissions:
    """Takes the tasks of one pool, claims them, brings results. Its pool's consumer it may make; streams it may not. It
    answers questions to its durable functions."""
    names = Names(namespace)
    return Permissions(
        publish=(
            *client(namespace, inbox).publish,
            f"{_API}.CONSUMER.CREATE.{names.tasks}.{pool}.{names.task_subject(pool)}",
            f"{_API}.CONSUMER.MSG.NEXT.{names.tasks}.{pool}",
            f"$JS.ACK.{names.tasks}.{pool}.>",
            names.inbox_subject_all,
            names.dead_subject(pool),
            subjects.presence(namespace),
        ),
        subscribe=(
            subjects.workers(namespace, pool),
            f"{subjects.workers(namespace, pool)}.>",
            subjects.queries(namespace, pool),
            f"{inbox}.>",
        ),
        responses=True,
    )


def client(namespace: Namespace, inbox: str) -> Permissions:
    """Submits runs and asks about them."""
    return Permissions(
        publish=(
            f"{_API}.STREAM.INFO.{Names(namespace).tasks}",
            subjects.api(namespace),
            f"{subjects.control(namespace, Partition(0)).removesuffix('0')}*",
        ),
        subscribe=(f"{inbox}.>",),
    )


def producer(namespace: Namespace, inbox: str) -> Permissions:
    """Writes plain records, which start runs and are events, and hears that they are kept; nothing else."""
    return Permissions(publish=tuple(Names(namespace).plain_subject(topic) for topic in Topic), subscribe=(f"{inbox}.>",))


def gateway(namespace: Namespace, pools: tuple[Pool, ...], inbox: str) -> Permissions:
    """Does what its clients and the workers of these pools do."""
    parts = [client(namespace, inbox), *(worker(namespace, pool, inbox) for pool in pools)]
    return Permissions(
        publish=tuple(dict.fromkeys(subject for part in parts for subject in part.publish)),
        subscribe=tuple(dict.fromkeys(subject for part in parts for subject in part.subscribe)),
        responses=bool(pools),
    )


def accounts(namespace: Namespace, pools: tuple[Pool, ...]) -> str:
    """The part of a server's configuration that lets the roles of a namespace in. Passwords are the server's environment."""
    users = {
        "orchestrator": orchestrator(namespace, "_INBOX_orchestrator"),
        "gateway": gateway(namespace, pools, "_INBOX_gateway"),
        "client": client(namespace, "_INBOX_client"),
        "producer": producer(namespace, "_INBOX_producer"),
        **{f"worker-{pool}": worker(namespace, pool, f"_INBOX_worker-{pool}") for pool in pools},
    }
    lines = [
        f'      {{ user: "{name}", password: ${name.upper().replace("-", "_")}_PASSWORD, permissions: {found.conf()} }}'
        for name, found in users.items()
    ]
    return "\n".join(
        (
            "accounts {",
            f"  stepmesh_{namespace} {{",
            "    jetstream: enabled",
            "    users: [",
            *lines,
            "    ]",
            "  }",
            "  SYS { users: [ { user: monitor, password: $MONITOR_PASSWORD } ] }",
            "}",
            "system_account: SYS",
            "",
        )
    )


def _quoted(found: tuple[str, ...]) -> str:
    return ", ".join(f'"{subject}"' for subject in found)
