"""YAML text → compact JSON text, for data files. Invariant: an alias bomb or a cycle is refused before it is expanded."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

MAX_NODES = 1_000_000
"""Values in one file, once aliases are expanded."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without timestamps: a date is text, as in JSON."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def json_of_yaml(text: str) -> bytes:
    """Raises `ValueError` for text that is not YAML, or whose value JSON cannot hold."""
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as problem:
        raise ValueError(str(problem)) from problem
    _check(value)
    return msgspec.json.encode(value)


def _check(value: Any) -> None:
    """Refuse what is too large once expanded, keys that are not text, and numbers that JSON has not."""
    waiting = [value]
    seen = 0
    while waiting:
        one = waiting.pop()
        seen += 1
        if seen > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES:,} values once aliases are expanded")
        if isinstance(one, dict):
            for key in one:
                if not isinstance(key, str):
                    raise ValueError(f"the key {key!r} is not text: quote it")
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
        elif not isinstance(one, str | bool | int | float | None) or one in (float("inf"), float("-inf")) or one != one:
            raise ValueError(f"{one!r} is not a JSON value")
