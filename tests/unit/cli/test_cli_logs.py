"""What of other packages' logs a person sees."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from stepmesh_cli.logs import LogFlags, quiet_clients


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, kafka = logging.getLogger(), logging.getLogger("aiokafka")
    handlers, levels = root.handlers[:], (root.level, kafka.level, logging.getLogger("stepmesh").level)
    yield
    root.handlers[:] = handlers
    for logger, level in zip((root, kafka, logging.getLogger("stepmesh")), levels, strict=True):
        logger.setLevel(level)


def test_what_the_client_of_kafka_tries_again_is_not_told() -> None:
    quiet_clients()
    LogFlags().apply()
    assert not logging.getLogger("aiokafka.producer.sender").isEnabledFor(logging.ERROR)
    assert logging.getLogger("stepmesh.broker").isEnabledFor(logging.ERROR)


def test_unless_somebody_asks_for_the_logs_of_others() -> None:
    quiet_clients()
    LogFlags(other_log_level="warn").apply()
    assert logging.getLogger("aiokafka.producer.sender").isEnabledFor(logging.WARNING)
    assert not logging.getLogger("aiokafka.producer.sender").isEnabledFor(logging.INFO)
