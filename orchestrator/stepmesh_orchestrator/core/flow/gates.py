"""`concurrency`, `throttle` and `debounce` of a flow document → the gates that its runs pass before they begin; `idempotency` → which of
them are one.

In this order they are passed: what is put off by debounce takes no place, and what waits for a place takes no part of the rate.
"""

from __future__ import annotations

import re

from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.compiled import GatePlan
from stepmesh_orchestrator.core.flow.durations import parse_duration_ms
from stepmesh_orchestrator.core.flow.expressions import Context, compile_expression
from stepmesh_orchestrator.core.flow.fields import Fields
from stepmesh_orchestrator.core.flow.nodes import Node
from stepmesh_orchestrator.core.gates import POLICIES, QUEUE, Rule

GATE_KEYS = ("debounce", "concurrency", "throttle")
IDEMPOTENCY = "idempotency"
MAX_LIMIT = 100_000
_RATE = re.compile(r"\s*([0-9]{1,6})\s*/\s*([0-9]{0,6})\s*(s|m|h|d)\s*")
_UNITS_US = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def compile_gates(fields: Fields, context: Context) -> tuple[GatePlan, ...]:
    """Those of a flow, in the order in which its runs pass them."""
    compilers = {"debounce": _debounce, "concurrency": _concurrency, "throttle": _throttle}
    return tuple(compilers[kind](fields, context) for kind in GATE_KEYS if fields.get(kind) is not None)


def compile_idempotency(fields: Fields, context: Context) -> Node | None:
    """The key of a flow's submissions; None when each is a run of its own."""
    if fields.get(IDEMPOTENCY) is None:
        return None
    inner = fields.inner(IDEMPOTENCY)
    inner.only(("key",), f"`{IDEMPOTENCY}`")
    if inner.is_object and inner.get("key") is None:
        inner.findings.add(Code.MISSING, inner.path, f"`{IDEMPOTENCY}` has no `key`", "add key: {$input: order}")
    return _key(inner, context)


def _concurrency(fields: Fields, context: Context) -> GatePlan:
    inner = fields.inner("concurrency")
    inner.only(("key", "limit", "policy"), "`concurrency`")
    limit = inner.integer("limit", 1, 1, MAX_LIMIT)
    policy = inner.choice("policy", POLICIES, QUEUE)
    if policy != QUEUE and limit != 1:
        inner.report(Code.VALUE, "limit", f"`policy: {policy}` is for one run at a time", "leave `limit` out, or use `policy: queue`")
    return GatePlan("concurrency", _key(inner, context), Rule(limit=limit, policy=policy))


def _throttle(fields: Fields, context: Context) -> GatePlan:
    if isinstance(fields.get("throttle"), str):
        return GatePlan("throttle", None, _rate(fields, "throttle"))
    inner = fields.inner("throttle")
    inner.only(("key", "rate"), "`throttle`")
    inner.required_text("rate", 'rate: "100/m"')
    return GatePlan("throttle", _key(inner, context), _rate(inner, "rate"))


def _rate(fields: Fields, key: str) -> Rule:
    text = fields.text(key) or ""
    found = _RATE.fullmatch(text)
    count, period = (int(found[1]), int(found[2] or 1) * _UNITS_US[found[3]]) if found is not None else (0, 0)
    if not 0 < count <= period:
        if text:
            fields.report(Code.VALUE, key, f"{text[:60]!r} is not a rate", "write 100/m, 5/s or 1/10m")
        return Rule()
    return Rule(interval_us=period // count, burst=count)


def _debounce(fields: Fields, context: Context) -> GatePlan:
    inner = fields.inner("debounce")
    inner.only(("key", "period", "max"), "`debounce`")
    period = _duration(inner, "period", 0)
    if inner.is_object and inner.get("period") is None:
        inner.findings.add(Code.MISSING, inner.path, "`debounce` has no `period`", "add period: 5s")
    elif period == 0 and inner.is_object:
        inner.report(Code.VALUE, "period", "`period` is no time", "write period: 5s")
    longest = _duration(inner, "max", 10 * period)
    if longest < period:
        inner.report(Code.VALUE, "max", "`max` is shorter than `period`", "make `max` the longer one")
    return GatePlan("debounce", _key(inner, context), Rule(period_ms=period, max_ms=longest))


def _key(fields: Fields, context: Context) -> Node | None:
    value = fields.get("key")
    return None if value is None else compile_expression(value, fields.at("key"), context)


def _duration(fields: Fields, key: str, default: int) -> int:
    value = fields.get(key)
    if value is None:
        return default
    try:
        return parse_duration_ms(value)
    except ValueError as problem:
        fields.report(Code.VALUE, key, str(problem))
        return default
