"""What several test folders share."""

from __future__ import annotations

import os
import signal

import pytest
from tests.services import shared

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: programs that tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
