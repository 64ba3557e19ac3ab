"""What is measured on what: one frozen value for a bench run, and the flows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = 10
"""Steps of the chain."""


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """`scale` multiplies the amount of work. `workers`: processes, or workers in this process with the memory broker. `namespace`: a fresh
    one on servers that others use. `runs`: of `sleep`; None = by the scale."""

    broker: str = "embedded"
    journal: str = "sqlite"
    workers: int = 1
    scale: float = 1.0
    data: Path | None = None
    profile: bool = False
    runs: int | None = None
    namespace: str = "default"

    @property
    def on_servers(self) -> bool:
        """What it leaves behind stays there, and the flows have to be kept somewhere else."""
        return "://" in self.broker or "://" in self.journal or self.journal == "broker"

    def amount(self, usual: int) -> int:
        """`usual`, scaled; ≥ 1."""
        return max(1, int(usual * self.scale))


def chain_flow(steps: int = STEPS, pool: str = "bench") -> dict[str, Any]:
    """No-op steps in a row, each on the one before."""
    listed: list[dict[str, Any]] = [{"id": "s0", "component": f"/{pool}/noop", "input": {"$input": "$"}}]
    listed += [{"id": f"s{n}", "component": f"/{pool}/noop", "input": {"$step": f"s{n - 1}"}} for n in range(1, steps)]
    return {"name": f"bench chain of {steps}", "steps": listed, "output": {"$step": f"s{steps - 1}"}}


def fanout_flow() -> dict[str, Any]:
    """One `/builtin/map` over the input, a no-op step per item."""
    body = {"steps": [{"id": "s", "component": "/bench/noop", "input": {"$input": "$"}}], "output": {"$step": "s"}}
    step = {"id": "m", "component": "/builtin/map", "input": {"items": {"$input": "$"}, "workflow": {"$literal": body}}}
    return {"name": "bench fanout", "steps": [step], "output": {"$step": "m", "path": "successful"}}
