"""A scenario beside its broker's own rate: which exchanges are measured, and what is said of them. Pure."""

from __future__ import annotations

from typing import Any

from stepmesh_cli.bench.raw.exchange import Exchange
from stepmesh_cli.bench.traffic import Traffic

MOST = 100_000
"""Round trips of one message per step, at most: the rate is steady long before."""


def exchanges(steps: int, carried: Traffic, live: int) -> tuple[Exchange, Exchange]:
    """The traffic of `steps` steps, of which about `live` were under way: in one message per step and direction, each its share of the
    bytes; and in as many messages as there were, of their mean sizes."""
    singles = min(steps, MOST)
    one_each = Exchange(
        out=singles, out_bytes=carried.frame_bytes // steps, back=singles, back_bytes=carried.result_bytes // steps, window=live
    )
    framed = Exchange(
        out=carried.frames, out_bytes=carried.frame_bytes // carried.frames,
        back=carried.results, back_bytes=carried.result_bytes // carried.results,
        window=max(1, live * carried.frames // steps),
    )  # fmt: skip
    return one_each, framed


def compared(
    steps: int, seconds: float, carried: Traffic, one_each: tuple[Exchange, float], framed: tuple[Exchange, float]
) -> dict[str, Any]:
    """`ratio`: steps per second for each round trip per second of the plain client. `framed_ratio`: of what the broker would carry if
    nothing but the same frames went through it."""
    round_trips = one_each[0].out / one_each[1]
    carried_per_s = steps / framed[1]
    return {
        "raw_round_trips_per_s": round(round_trips),
        "ratio": round(steps / seconds / round_trips, 2),
        "raw_framed_steps_per_s": round(carried_per_s),
        "framed_ratio": round(steps / seconds / carried_per_s, 3),
        "traffic": {
            "task frames": carried.frames, "bytes each": framed[0].out_bytes,
            "result messages": carried.results, "bytes of each": framed[0].back_bytes,
        },
    }  # fmt: skip
