"""One step object of a document → `CompiledStep`. Reads every key once; reports what it does not know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.compiled import Backoff, CompiledStep, ErrorAction, ErrorPolicy, Validator
from stepmesh_orchestrator.core.flow.durations import parse_duration_ms
from stepmesh_orchestrator.core.flow.expressions import Context, compile_expression
from stepmesh_orchestrator.core.flow.fields import Fields
from stepmesh_orchestrator.core.flow.nodes import Node

STEP_KEYS = (
    "id", "component", "input", "onError", "mustExecute", "metadata",
    "skip", "timeout", "pool", "priority", "concurrencyKey", "concurrencyLimit",
)  # fmt: skip
ON_ERROR_KEYS = ("action", "defaultValue", "maxRetries", "backoff")
BACKOFF_KEYS = ("type", "initial", "max", "factor", "jitter")
MAX_RETRIES = 1_000_000
MAX_LIMIT = 100_000
_POOL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PRIORITIES = (-(2**31), 2**31 - 1)


def compile_step(fields: Fields, index: int, context: Context, output_schemas: Mapping[str, Validator]) -> CompiledStep:
    """The step at `index`. Its id has been checked already."""
    fields.only(STEP_KEYS, "a step")
    step_id = str(fields.get("id"))
    return CompiledStep(
        index=index,
        id=step_id,
        component=_component(fields),
        input=compile_expression(fields.get("input"), fields.at("input"), context),
        skip=_optional(fields, "skip", context),
        on_error=_error_policy(fields.inner("onError"), context.with_error()),
        must_execute=fields.boolean("mustExecute"),
        timeout_ms=_duration(fields, "timeout", 0),
        pool=_pool(fields),
        priority=fields.integer("priority", 0, *_PRIORITIES),
        concurrency_key=_optional(fields, "concurrencyKey", replace(context, step=-1)),
        concurrency_limit=_concurrency_limit(fields),
        output_schema=output_schemas.get(step_id),
        metadata=dict(fields.inner("metadata").value),
    )


def _optional(fields: Fields, key: str, context: Context) -> Node | None:
    value = fields.get(key)
    return None if value is None else compile_expression(value, fields.at(key), context)


def _concurrency_limit(fields: Fields) -> int:
    if fields.get("concurrencyLimit") is not None and fields.get("concurrencyKey") is None:
        fields.report(Code.UNUSED, "concurrencyLimit", "`concurrencyLimit` has no effect without `concurrencyKey`", "add the key")
    return fields.integer("concurrencyLimit", 1, 1, MAX_LIMIT)


def _component(fields: Fields) -> str:
    path = fields.required_text("component", "component: /builtin/noop")
    if path and not path.startswith("/"):
        fields.report(Code.VALUE, "component", f"the component `{path[:60]}` does not begin with `/`", f"write /{path[:60]}")
    elif path == "/":
        fields.report(Code.VALUE, "component", "`/` names no component", "write component: /pool/name")
    return path


def _pool(fields: Fields) -> str | None:
    pool = fields.text("pool")
    if pool is not None and not _POOL.fullmatch(pool):
        fields.report(Code.VALUE, "pool", f"{pool[:80]!r} is not a pool name", "use 1 to 64 letters, digits, '-' or '_'")
        return None
    return pool


def _duration(fields: Fields, key: str, default: int) -> int:
    value = fields.get(key)
    if value is None:
        return default
    try:
        return parse_duration_ms(value)
    except ValueError as problem:
        fields.report(Code.VALUE, key, str(problem))
        return default


def _error_policy(fields: Fields, context: Context) -> ErrorPolicy:
    fields.only(ON_ERROR_KEYS, "`onError`")
    action = ErrorAction(fields.choice("action", [one.value for one in ErrorAction], ErrorAction.FAIL.value))
    default = fields.get("defaultValue")
    retries = action is ErrorAction.RETRY
    if action is ErrorAction.FAIL and default is not None:
        fields.report(Code.UNUSED, "defaultValue", "`defaultValue` has no effect with `action: fail`", "use `action: useDefault`")
    if not retries and fields.get("maxRetries") is not None:
        fields.report(Code.UNUSED, "maxRetries", "`maxRetries` has no effect without `action: retry`", "use `action: retry`")
    backoff = fields.get("backoff")
    return ErrorPolicy(
        action=action,
        max_retries=fields.integer("maxRetries", 3, 0, MAX_RETRIES),
        default=None if default is None else compile_expression(default, fields.at("defaultValue"), context),
        backoff=None if backoff is None else compile_backoff(fields.inner("backoff")),
    )


def compile_backoff(fields: Fields) -> Backoff:
    """`{type, initial, max, factor, jitter}` with the defaults of `Backoff`."""
    fields.only(BACKOFF_KEYS, "`backoff`")
    usual = Backoff()
    kind = fields.choice("type", ("constant", "exponential", "fibonacci"), usual.kind)
    initial = _duration(fields, "initial", usual.initial_ms)
    maximum = _duration(fields, "max", max(usual.max_ms, initial))
    if maximum < initial:
        fields.report(Code.VALUE, "max", "`max` is shorter than `initial`", "make `max` the longer one")
    jitter = fields.get("jitter")
    share = float(jitter) if isinstance(jitter, bool) else fields.number("jitter", usual.jitter, 0, 1)
    return Backoff(kind, initial, maximum, fields.number("factor", usual.factor, 1, 1_000), share)
