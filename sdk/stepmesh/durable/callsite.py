"""Where in a person's code a command was issued: the nearest frame that is neither asyncio's nor ours."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from types import FrameType

_OURS = (str(Path(__file__).parent.parent), str(Path(asyncio.__file__).parent))


def here(depth: int = 1) -> str:
    """`file.py:31` of the caller's caller's … first frame outside; `?` when there is none."""
    frame: FrameType | None = inspect.currentframe()
    for _ in range(depth):
        frame = frame and frame.f_back
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return "?" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
