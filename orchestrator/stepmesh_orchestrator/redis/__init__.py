"""Redis as the journal and the membership use it: connections, scripts, and what its errors mean."""

from stepmesh_orchestrator.redis.connections import RedisConnections
from stepmesh_orchestrator.redis.faults import ERRORS, Fault, classify, describe
from stepmesh_orchestrator.redis.scripts import Script

__all__ = ["ERRORS", "Fault", "RedisConnections", "Script", "classify", "describe"]
