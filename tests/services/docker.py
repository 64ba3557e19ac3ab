"""The same servers as containers, through testcontainers, where a Docker engine runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any, NamedTuple

IMAGES = {"nats": "nats:2.12", "kafka": "apache/kafka:4.1.1", "postgres": "postgres:15", "redis": "redis:7"}


def docker_runs() -> bool:
    """Whether an engine answers."""
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True).returncode == 0


class Container(NamedTuple):
    """One that runs."""

    url: str
    id: str

    @staticmethod
    def remove(id: str) -> None:
        """End it, with its data."""
        subprocess.run(["docker", "rm", "-f", "-v", id], stdout=subprocess.DEVNULL, check=True)


def nats_container() -> Container:
    """JetStream."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    made = DockerContainer(IMAGES["nats"]).with_command("-js").with_exposed_ports(4222)
    return _started(made.waiting_for(LogMessageWaitStrategy("Server is ready")), "nats://{host}:{port}", 4222)


def kafka_container() -> Container:
    """KRaft, one broker."""
    from testcontainers.kafka import KafkaContainer

    made = KafkaContainer(IMAGES["kafka"]).with_kraft()
    started = _begun(made)
    return Container(f"kafka://{started.get_bootstrap_server()}", started.get_wrapped_container().id)


def postgres_container() -> Container:
    """With the database `stepmesh`."""
    from testcontainers.postgres import PostgresContainer

    made = PostgresContainer(IMAGES["postgres"], username="postgres", password="test", dbname="stepmesh", driver=None)
    return _started(made, "postgresql://postgres:test@{host}:{port}/stepmesh", 5432)


def redis_container() -> Container:
    """Append-only, fsync on every write."""
    from testcontainers.redis import RedisContainer

    made = RedisContainer(IMAGES["redis"]).with_command("redis-server --appendonly yes --appendfsync always")
    return _started(made, "redis://{host}:{port}/0", 6379)


def _started(made: Any, url: str, port: int) -> Container:
    started = _begun(made)
    return Container(
        url.format(host=started.get_container_host_ip(), port=started.get_exposed_port(port)), started.get_wrapped_container().id
    )


def _begun(made: Any) -> Any:
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"  # the run ends its containers itself, after its last process
    return made.start()
