"""The Broker port over Apache Kafka."""

from stepmesh_broker.kafka.settings import KafkaSettings

__all__ = ["KafkaSettings"]
