"""Where in a person's code something was asked for: the nearest frame that is neither the standard library's nor ours."""

from __future__ import annotations

import inspect
import sysconfig
from functools import cache
from pathlib import Path
from types import FrameType

_OURS = str(Path(__file__).parent.parent)
_LIBRARY = sysconfig.get_paths()["stdlib"]


def here(depth: int = 1) -> str:
    """`file.py:31` of the caller's caller's … first frame outside; `?` when there is none."""
    frame: FrameType | None = inspect.currentframe()
    for _ in range(depth):
        frame = frame and frame.f_back
    while frame is not None:
        if name := _shown(frame.f_code.co_filename):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


@cache
def _shown(file: str) -> str:
    """The file's name; "" for one that is passed over."""
    is_passed = file.startswith(_OURS) or (file.startswith((_LIBRARY, "<frozen")) and "site-packages" not in file)
    return "" if is_passed else Path(file).name
