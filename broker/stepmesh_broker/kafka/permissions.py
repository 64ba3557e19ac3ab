"""What a user of a Kafka cluster must be allowed to do, by role; everything else may be forbidden. `infra/kafka` has it written down.

Requests, answers, signals and presence share one topic, so whoever may talk at all may say anything there, and hear it: roles are kept
apart in what lasts (tasks, results, submissions, journal), not in talk. Invariant: names come from where they are made. It must not know
how a cluster is configured.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.topics import Topics
from stepmesh_broker.protocol.ids import Namespace, Pool


@dataclass(frozen=True, kw_only=True)
class Grant:
    """Operations on what has a name, or a name that begins so (`prefixed`). `kind`: `topic` or `group`."""

    kind: str
    name: str
    operations: tuple[str, ...]
    prefixed: bool = False

    def arguments(self, user: str) -> str:
        """As `kafka-acls.sh --add` takes them."""
        operations = " ".join(f"--operation {one}" for one in self.operations)
        pattern = " --resource-pattern-type prefixed" if self.prefixed else ""
        return f"--allow-principal User:{user} {operations} --{self.kind} {self.name}{pattern}"


def orchestrator(namespace: Namespace) -> tuple[Grant, ...]:
    """Rules its namespace: makes, reads and trims its topics, also those of a journal and a membership in Kafka."""
    everything = f"stepmesh.{namespace}."
    return (
        Grant(kind="topic", name=everything, operations=("All",), prefixed=True),
        Grant(kind="group", name=everything, operations=("All",), prefixed=True),
    )


def worker(namespace: Namespace, pool: Pool) -> tuple[Grant, ...]:
    """Takes the tasks of one pool, or puts them back; brings results. Topics it may not make."""
    topics = _topics(namespace)
    tasks = topics.tasks(pool)
    return (
        *client(namespace),
        Grant(kind="topic", name=tasks, operations=("Read", "Write")),
        Grant(kind="group", name=tasks, operations=("Read",)),
        Grant(kind="topic", name=topics.births, operations=("Read",)),
        Grant(kind="topic", name=topics.inbox, operations=("Write",)),
        Grant(kind="topic", name=topics.dead, operations=("Write",)),
    )


def client(namespace: Namespace) -> tuple[Grant, ...]:
    """Submits runs and asks about them."""
    return (Grant(kind="topic", name=_topics(namespace).talk, operations=("Read", "Write")),)


def producer(namespace: Namespace) -> tuple[Grant, ...]:
    """Writes plain records, which start runs and are events."""
    return tuple(Grant(kind="topic", name=topic, operations=("Write",)) for topic in _topics(namespace).plain.values())


def gateway(namespace: Namespace, pools: tuple[Pool, ...]) -> tuple[Grant, ...]:
    """Does what its clients and the workers of these pools do."""
    return tuple(dict.fromkeys([*client(namespace), *(grant for pool in pools for grant in worker(namespace, pool))]))


def projector(namespace: Namespace) -> tuple[Grant, ...]:
    """Reads the journal, and keeps its windows in topics of its own, which it makes."""
    own = f"stepmesh.{namespace}.projector"
    return (
        Grant(kind="topic", name=f"stepmesh.{namespace}.journal", operations=("Read", "DescribeConfigs")),
        Grant(kind="topic", name=own, operations=("All",), prefixed=True),
        Grant(kind="group", name=own, operations=("All",), prefixed=True),
    )


def grants(namespace: Namespace, pools: tuple[Pool, ...]) -> dict[str, tuple[Grant, ...]]:
    """User → what it may do, for all roles of a namespace."""
    return {
        "orchestrator": orchestrator(namespace),
        "gateway": gateway(namespace, pools),
        "client": client(namespace),
        "producer": producer(namespace),
        "projector": projector(namespace),
        **{f"worker-{pool}": worker(namespace, pool) for pool in pools},
    }


def script(namespace: Namespace, pools: tuple[Pool, ...]) -> str:
    """A shell script that gives them to a cluster: KAFKA is its address, ADMIN a file with the properties of a client that may."""
    lines = [grant.arguments(user) for user, found in grants(namespace, pools).items() for grant in found]
    return "\n".join(
        (
            "set -eu",
            'allow() { kafka-acls.sh --bootstrap-server "$KAFKA" --command-config "$ADMIN" --add "$@"; }',
            *(f"allow {line}" for line in lines),
            "",
        )
    )


def _topics(namespace: Namespace) -> Topics:
    return Topics(KafkaSettings(namespace=namespace))
