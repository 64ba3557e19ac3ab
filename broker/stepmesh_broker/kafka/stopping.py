"""Consumers of aiokafka that are to stop. While brokers are away or elect, one of them may never do, or end with an error of its own.

Invariant: after `stop` nothing of the consumer holds a connection, and the caller was not kept for long. Must not know what was consumed.
"""

from __future__ import annotations

import logging
from typing import Any

from aiokafka.errors import KafkaError

from stepmesh_broker.ending import ended
from stepmesh_broker.kafka.settings import STOP_S

_log = logging.getLogger(__name__)


async def stop(consumer: Any) -> None:
    """In order, or not. Raises nothing."""
    try:
        if await ended(consumer.stop(), STOP_S):
            return
    except KafkaError as problem:
        _log.info("a consumer did not stop in order: %r", problem)
    await ended(consumer._client.close(), STOP_S)
