"""What a backend's own settings say of what it keeps: the answers of each backend's `durability.py`, and of the journals'.

Invariant: a finding is what the server said now, or says that it is not visible and why; nothing is assumed. It must not know any backend.
"""

from __future__ import annotations

from typing import NamedTuple

NOT_VISIBLE = "not visible"


class Finding(NamedTuple):
    """One setting. `means`: what would be lost and when; "" = nothing of what was acknowledged. `fix`: what to change; "" = nothing."""

    name: str
    value: str
    means: str = ""
    fix: str = ""
