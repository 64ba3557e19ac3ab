"""What may stand in a history: JSON of a bounded size, told with the place in the value when it is something else."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from stepmesh import payloads
from stepmesh.payloads import NotJson
from stepmesh_broker.errors import StepmeshError


class NotSerialisable(StepmeshError):
    """SM-1030: an argument or a result that no journal can hold, or that comes out of it as something else."""

    default_code = "SM-1030"

    @classmethod
    def of(cls, name: str, problem: NotJson, where: str) -> NotSerialisable:
        """`name`: of the step; `where`: `file:line`."""
        return cls(
            f"`{name}` ({where}): {problem.path} is {problem.kind}, which the journal cannot hold",
            hint="pass plain data, msgspec Structs, dataclasses or pydantic models; make clients and files inside the step",
        )


class PayloadTooLarge(StepmeshError):
    """SM-1031: an argument, a result or a note that is larger than a history should hold."""

    default_code = "SM-1031"

    @classmethod
    def of(cls, name: str, where: str, size: int, limit: int) -> PayloadTooLarge:
        """Sizes in bytes of JSON."""
        return cls(
            f"`{name}` ({where}): {size} bytes, above the limit of {limit}",
            hint="store it as a blob or in a service of your own, and pass its id",
        )


def journaled(name: str, value: Any, where: str, limit: int) -> bytes:
    """JSON text of at most `limit` bytes. Raises `NotSerialisable`, `PayloadTooLarge`."""
    try:
        data = payloads.write(value)
    except NotJson as problem:
        raise NotSerialisable.of(name, problem, where) from problem
    if len(data) > limit:
        raise PayloadTooLarge.of(name, where, len(data), limit)
    return data


def same_again(name: str, where: str, value: Any, again: Any) -> None:
    """What went into the journal, and what comes out of it, for values that should be equal. Raises `NotSerialisable`."""
    found = _changed("result", value, again)
    if found is None:
        return
    path, was, is_now = found
    raise NotSerialisable(
        f"`{name}` ({where}): {path} is {type(was).__qualname__} {_short(was)}, and comes back from the journal as "
        f"{type(is_now).__qualname__} {_short(is_now)}",
        hint="annotate what the step returns, with types that survive JSON: list for tuple, text keys, datetime with its annotation",
    )


def _changed(path: str, was: Any, now: Any) -> tuple[str, Any, Any] | None:
    if was == now:
        return None
    if isinstance(was, (list, tuple)) and type(was) is type(now) and len(was) == len(now):
        return _first(((f"{path}[{index}]", *pair) for index, pair in enumerate(zip(was, now, strict=True))), path, was, now)
    if isinstance(was, dict) and isinstance(now, dict) and was.keys() == now.keys():
        return _first(((f"{path}.{key}", was[key], now[key]) for key in was), path, was, now)
    if type(was) is type(now) and (names := _fields(was)):
        return _first(((f"{path}.{key}", getattr(was, key), getattr(now, key)) for key in names), path, was, now)
    return path, was, now


def _first(parts: Any, path: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    return next((found for part in parts if (found := _changed(*part)) is not None), (path, was, now))


def _fields(value: Any) -> tuple[str, ...]:
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    return tuple(field.name for field in dataclasses.fields(value)) if dataclasses.is_dataclass(value) else ()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
