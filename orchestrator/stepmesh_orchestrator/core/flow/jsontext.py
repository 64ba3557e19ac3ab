"""JSON text as bytes: how plain values become it, and how it is taken apart without being decoded.

Invariant: text that passes through here keeps its digits, its key order and its spelling. Decoding
builds Python values only where a caller asks for them. Must not know flows or expressions.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any, NoReturn

import msgspec

from stepmesh_broker.protocol.ids import FlowId, content_id
from stepmesh_orchestrator.core.flow.limits import PAYLOAD_DEPTH

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_structure = msgspec.json.Decoder(msgspec.Raw).decode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def dumps(value: Any) -> bytes:
    """Compact JSON in source key order, UTF-8. `value`: dict with str keys, list, str, int, float, bool or None.

    Raises `ValueError` for NaN, infinity, a lone surrogate (as `UnicodeEncodeError`), an integer above Python's digit
    limit, or nesting that Python cannot follow; `TypeError` for any other type.
    """
    try:
        return _encode(value).encode()
    except RecursionError as problem:
        raise ValueError("nested too deeply for JSON") from problem


def loads(text: bytes) -> Any:
    """The plain value of JSON text; integers exact. Raises `ValueError` for anything that is not JSON (NaN included)."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as problem:
        raise ValueError("nested too deeply for JSON") from problem


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def flow_id(document: bytes) -> FlowId:
    """The id of a flow: SHA-256 of its compact JSON in source key order."""
    return FlowId(content_id(document))


def child(raw: bytes | msgspec.Raw, part: str | int) -> msgspec.Raw | None:
    """The member `part` of an object (str) or the element of a list (int), as text. None: absent, or `raw` is something else."""
    try:
        if isinstance(part, str):
            return _object(raw).get(part)
        elements = _array(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return elements[part] if part < len(elements) else None


def is_valid(text: bytes, max_depth: int = PAYLOAD_DEPTH) -> bool:
    """True for one JSON value in UTF-8 without lone surrogates, nested at most `max_depth` deep. Numbers may have any size."""
    try:
        _structure(text)
        text.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return depth_at_most(text, max_depth)


def depth_at_most(text: bytes, limit: int) -> bool:
    """Whether well-formed JSON nests at most `limit` deep. Counts brackets first: most payloads have fewer than the limit."""
    if text.count(b"[") + text.count(b"{") <= limit:
        return True
    brackets = _STRING.sub(b"", text).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) <= limit


def same(left: Any, right: Any) -> bool:
    """JSON equality of plain values: numbers by value (1 equals 1.0), but true is not 1; key order does not matter."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)
