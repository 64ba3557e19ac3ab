"""What of faust the stream application uses: settings → an application of faust. This and `application.py` are the only doors to faust."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faust

from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_projector.readings import Reading
from stepmesh_projector.topic import Topic

_ANY_PORT = 6066  # of a server that is off: faust has no word for none
_BUFFERED = 256
"""Records that faust holds for the application; frames may be large."""


@dataclass(frozen=True, kw_only=True)
class ApplicationSettings:
    """`group` is the consumer group, and the first part of the names of its tables' topics. `size_ms` of a window; `table_s`: how long
    faust's table has it, `keep_ms`: how long the database has. `settle_s`: between checkpoints. `port`: of health, None for none. `observe`
    hears now and then how it goes."""

    group: str
    kafka: KafkaSettings
    topic: Topic
    size_ms: int = 10_000
    table_s: float = 3_600.0
    keep_ms: int = 24 * 3_600_000
    settle_s: float = 2.0
    session_s: float = 15.0
    host: str = "127.0.0.1"
    port: int | None = None
    observe: Callable[[Reading], None] | None = None


def faust_app(settings: ApplicationSettings) -> Any:
    """Not started; nothing is asked of Kafka yet."""
    kafka = settings.kafka
    credentials: Any = None
    if kafka.user:
        credentials = faust.SASLCredentials(
            username=kafka.user, password=kafka.password or "", ssl_context=kafka.tls, mechanism=kafka.mechanism
        )
    elif kafka.tls is not None:
        credentials = faust.SSLCredentials(kafka.tls)
    return faust.App(
        settings.group,
        broker=[f"kafka://{host}" for host in kafka.bootstrap],
        broker_credentials=credentials,
        broker_session_timeout=settings.session_s,
        broker_heartbeat_interval=settings.session_s / 5,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=kafka.max_message_bytes,
        producer_max_request_size=kafka.max_message_bytes,
        store="memory://",
        stream_buffer_maxsize=_BUFFERED,
        stream_wait_empty=False,
        topic_disable_leader=True,
        topic_partitions=settings.topic.partitions,
        topic_replication_factor=settings.topic.replicas,
        web_enabled=settings.port is not None,
        web_bind=settings.host,
        web_port=settings.port or _ANY_PORT,
        web_stats_enabled=False,
        web_graph_enabled=False,
        web_router_enabled=False,
        web_tables_enabled=False,
        web_metrics_enabled=False,
    )
