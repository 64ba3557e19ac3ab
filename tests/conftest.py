"""What several test folders share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.services import shared

HERE = Path(__file__).parent
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no test fails for its time
settings.load_profile("ci" if "CI" in os.environ else "unhurried")  # "ci" is the library's: unhurried, and the same examples each time
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: programs that tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = (
    "acceptance/test_cluster_kills.py",
    "acceptance/test_cluster_servers.py",
    "acceptance/test_bench.py",
    "acceptance/test_faulty_brokers.py",
    "acceptance/test_cluster.py",
    "integration/kafka/test_faults.py",
    "acceptance/test_kill_nine.py",
    "integration/nats/test_stream_settings.py",
    "integration/journals/test_log_servers_killed.py",
    "interop/test_lifecycle.py",
    "acceptance/test_herds.py",
    "integration/nats/test_access.py",
    "integration/nats/test_cluster_faults.py",
    "acceptance/test_submit_topic.py",
    "acceptance/test_process_faults.py",
    "acceptance/test_scaling.py",
    "acceptance/test_damaged_data.py",
    "acceptance/test_cluster_disks.py",
    "integration/projector",
    "integration/behaviour/test_life.py",
)
"""Where tests take ten seconds and more, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest begin first: one that began last would let all processes but its own wait for it."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    path = item.path.relative_to(HERE).as_posix()
    return next((place for place, start in enumerate(LONGEST) if path.startswith(start)), len(LONGEST))


def pytest_configure(config: pytest.Config) -> None:
    """The run's first process keeps the folder of its servers."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shared.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    """And ends them, after its last test."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shared.end()


@pytest.fixture(scope="session")
def nats_url() -> str:
    """A real nats-server for the whole run, shared by its processes, as are all below: use a namespace (database, prefix) of your own."""
    return shared.url_of("nats")


@pytest.fixture(scope="session")
def nats_cluster_url() -> str:
    """Three nats-servers, one cluster."""
    return shared.url_of("nats-cluster")


@pytest.fixture(scope="session")
def kafka_url() -> str:
    """Apache Kafka, one broker."""
    return shared.url_of("kafka")


@pytest.fixture(scope="session")
def kafka_cluster_url() -> str:
    """Apache Kafka, three brokers."""
    return shared.url_of("kafka-cluster")


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """PostgreSQL, with an empty database."""
    return shared.url_of("postgres")


@pytest.fixture(scope="session")
def redis_url() -> str:
    """Redis, append-only with fsync on every write."""
    return shared.url_of("redis")
