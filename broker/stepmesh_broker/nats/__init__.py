"""NATS JetStream backend of the Broker port; the only door to nats-py."""

from stepmesh_broker.nats.settings import NatsSettings
from stepmesh_broker.nats.transport import NatsBroker

__all__ = ["NatsBroker", "NatsSettings"]
