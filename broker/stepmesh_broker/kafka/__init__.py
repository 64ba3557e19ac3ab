"""The Broker port over Apache Kafka; the only door of the broker package to aiokafka."""

from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.transport import KafkaBroker

__all__ = ["KafkaBroker", "KafkaSettings"]
