"""Arguments of a local step, kept as they were when it was asked for: the body may change its lists and objects before the step begins.

Invariant: each attempt gets what the history has, and nothing that the body or an earlier attempt has in its hands; types are those of what
was given. What can't change is handed on as it is, for most arguments are small and plain. It must not know steps or histories.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

Given = tuple[tuple[Any, ...], dict[str, Any]]
"""As a function takes them: by place, and by name."""
_FIXED = frozenset({bool, bytes, date, datetime, Decimal, float, int, str, time, timedelta, type(None), UUID})
"""Types whose values never change."""


def kept(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Given]:
    """Gives them as they are now, however often it is called."""
    given = args, kwargs
    if all(map(_is_fixed, args)) and all(map(_is_fixed, kwargs.values())):
        return lambda: given
    try:
        return partial(pickle.loads, pickle.dumps(given, pickle.HIGHEST_PROTOCOL))
    except Exception:  # such as a class that is declared within a function
        return _copied(given)


def _copied(given: Given) -> Callable[[], Given]:
    """The slower way, for more types."""
    try:
        own = deepcopy(given)
    except Exception:  # such as a memoryview: nothing copies it
        return lambda: given
    return lambda: deepcopy(own)


def _is_fixed(value: Any) -> bool:
    kind = type(value)
    return kind in _FIXED or (kind in (tuple, frozenset) and all(map(_is_fixed, value))) or isinstance(value, Enum)
