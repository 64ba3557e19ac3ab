"""NATS JetStream backend of the Broker port, and a nats-server of our own; the only door to nats-py."""

from stepmesh_broker.nats.embedded import EmbeddedNats, find_nats_server, read_endpoint
from stepmesh_broker.nats.settings import NatsSettings
from stepmesh_broker.nats.transport import NatsBroker
from stepmesh_broker.nats.workqueue import WorkQueue

__all__ = ["EmbeddedNats", "NatsBroker", "NatsSettings", "WorkQueue", "find_nats_server", "read_endpoint"]
