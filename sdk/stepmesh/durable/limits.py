"""How much a body may do, and what becomes of one that does more: settings of a worker, with the values that suit most."""

from __future__ import annotations

from typing import Literal

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """`guard`: what becomes of a body that does what a replay would do otherwise, or leaves something behind: an error in tests and in
    development; in production a line in the log, because a library may read a clock for its own sake. `turn_cpu_s`: seconds of CPU
    time that a body may take between two awaits. `payload_bytes`: of an argument or result, as JSON; `stream_bytes`: of a value that is
    written to a stream or set as an attribute. `history_warn`, `history_most`: records. `after_cancel`: commands that a cancelled body may
    still ask for outside of `wf.shield()`. `round_trip`: compare what steps return with what the journal makes of it (in tests and in
    development)."""

    guard: Literal["error", "warn", "off"] = "warn"
    turn_cpu_s: float = 2.0
    payload_bytes: int = 4 * 1024 * 1024
    stream_bytes: int = 4096
    history_warn: int = 2_000
    history_most: int = 20_000
    after_cancel: int = 20
    round_trip: bool = False


USUAL = Limits()
"""Of a worker for which nothing else is said."""
STRICT = Limits(guard="error", round_trip=True)
"""Of tests and of development."""
