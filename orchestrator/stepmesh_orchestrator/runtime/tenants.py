"""The namespaces whose runs a deployment takes: its own, and its tenants, which share its partitions, pools and workers.

Invariant: topics and subjects are those of the deployment's own namespace alone; a tenant is nothing but what its runs say of themselves.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.messages import Refused


@dataclass(frozen=True, slots=True)
class Tenants:
    """`others` None: any namespace."""

    own: Namespace
    others: Collection[str] | None = ()

    def refusal(self, namespace: Namespace) -> Refused | None:
        """Why a run of the namespace is not taken; None when it is."""
        if namespace == self.own or self.others is None or namespace in self.others:
            return None
        served = ", ".join((self.own, *sorted(self.others)))
        return Refused("SM-5008", f"namespace {namespace} is not served here", f"this is {served}; see `flowControl.namespaces`")
