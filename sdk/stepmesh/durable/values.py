"""What may stand in a history: JSON, told with the place in the value when it is something else."""

from __future__ import annotations

from stepmesh.payloads import NotJson
from stepmesh_broker.errors import StepmeshError


class NotSerialisable(StepmeshError):
    """SM-1030: an argument or a result that no journal can hold."""

    default_code = "SM-1030"

    @classmethod
    def of(cls, name: str, problem: NotJson, where: str) -> NotSerialisable:
        """`name`: of the step; `where`: `file:line`."""
        return cls(
            f"`{name}` ({where}): {problem.path} is {problem.kind}, which the journal cannot hold",
            hint="pass plain data, msgspec Structs, dataclasses or pydantic models; make clients and files inside the step",
        )
