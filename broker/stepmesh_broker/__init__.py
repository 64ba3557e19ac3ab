"""What crosses a process boundary, and how it travels: messages, the Broker port, its backends.

Backends are imported from their own packages (`stepmesh_broker.memory`, `stepmesh_broker.nats`), so that using one does not
load the libraries of the others.
"""

from stepmesh_broker.errors import BrokerError, BrokerUnavailable, InboxTaken, MalformedMessage, MessageTooLarge, StepmeshError
from stepmesh_broker.ports import Broker, Delivery, Inbox, InboxEntry, Parked, PoolDepth, Subscription, TaskSource

__all__ = [
    "Broker",
    "BrokerError",
    "BrokerUnavailable",
    "Delivery",
    "Inbox",
    "InboxEntry",
    "InboxTaken",
    "MalformedMessage",
    "MessageTooLarge",
    "Parked",
    "PoolDepth",
    "StepmeshError",
    "Subscription",
    "TaskSource",
]
