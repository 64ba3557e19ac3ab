"""A Python function → how to call it with JSON: which parameter takes the input, the context, or a field of the input.

The rule, in order: a parameter annotated `Context` (or named `context` and not annotated) takes the context; what is left
decides: nothing (no input), one ordinary parameter (the whole input), several or keyword-only ones (fields of an input
object, with their defaults). This module must not know how a call is run.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

import msgspec

from stepmesh.context import Context
from stepmesh.errors import BadComponent
from stepmesh.payloads import Reader, holds_pydantic, reader, schema

Invoke = Callable[[Any, Context], Any]
"""(what the reader gave, context) → what the function returns: a value, or an awaitable for an async function."""


@dataclass(frozen=True, slots=True)
class Signature:
    """`read` is None when the function takes no input. Schemas are JSON Schema as JSON text; None = anything goes."""

    read: Reader | None
    invoke: Invoke
    input_schema: bytes | None
    output_schema: bytes | None


def of(function: Callable[..., Any]) -> Signature:
    """Raises `BadComponent` when the parameters or their types do not work."""
    name = getattr(function, "__qualname__", repr(function))
    parameters = list(inspect.signature(function).parameters.values())
    hints = _hints(function, name)
    for parameter in parameters:
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            raise BadComponent(f"component {name} takes *{parameter.name}", hint="name the fields, or take one `input`")
    context = next((p for p in parameters if _is_context(p, hints)), None)
    inputs = [p for p in parameters if p is not context]
    returns = hints.get("return", Any)
    output_schema = None if returns is type(None) else schema(returns, lenient=True)
    if not inputs:
        return Signature(None, _without_input(function, context), None, output_schema)
    if len(inputs) == 1 and inputs[0].kind is not Parameter.KEYWORD_ONLY:
        kind = hints.get(inputs[0].name, Any)
        return Signature(reader(kind), _with_input(function, inputs[0], context), schema(kind), output_schema)
    fields = _fields_type(function, inputs, hints)
    return Signature(reader(fields), _with_fields(function, inputs, context), schema(fields), output_schema)


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    target = function if inspect.isroutine(function) else type(function).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except NameError as problem:
        raise BadComponent(
            f"component {name}: {problem} (in an annotation)", hint="import or define that type at module level"
        ) from problem


def _is_context(parameter: Parameter, hints: dict[str, Any]) -> bool:
    hint = hints.get(parameter.name)
    if hint is None:
        return parameter.name == "context"
    return isinstance(hint, type) and issubclass(hint, Context)


def _without_input(function: Callable[..., Any], context: Parameter | None) -> Invoke:
    if context is None:
        return lambda _value, _context: function()
    name = context.name
    if context.kind is Parameter.KEYWORD_ONLY:
        return lambda _value, given: function(**{name: given})
    return lambda _value, given: function(given)


def _with_input(function: Callable[..., Any], taken: Parameter, context: Parameter | None) -> Invoke:
    if context is None:
        return lambda value, _context: function(value)
    name = context.name
    if context.kind is Parameter.KEYWORD_ONLY:
        return lambda value, given: function(value, **{name: given})
    parameters = list(inspect.signature(function).parameters)
    if parameters.index(name) < parameters.index(taken.name):
        return lambda value, given: function(given, value)
    return lambda value, given: function(value, given)


def _with_fields(function: Callable[..., Any], inputs: list[Parameter], context: Parameter | None) -> Invoke:
    for parameter in (*inputs, *((context,) if context else ())):
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            raise BadComponent(f"component parameter {parameter.name} is positional-only", hint="fields are given by name: remove the `/`")
    names = [parameter.name for parameter in inputs]
    if context is None:
        return lambda value, _context: function(**{name: getattr(value, name) for name in names})
    where = context.name
    return lambda value, given: function(**{name: getattr(value, name) for name in names}, **{where: given})


def _fields_type(function: Callable[..., Any], inputs: list[Parameter], hints: dict[str, Any]) -> Any:
    title = f"{getattr(function, '__name__', 'component')}_input"
    kinds = {parameter.name: hints.get(parameter.name, Any) for parameter in inputs}
    if any(holds_pydantic(kind) for kind in kinds.values()):
        import pydantic

        fields: dict[str, Any] = {p.name: (kinds[p.name], ... if p.default is Parameter.empty else p.default) for p in inputs}
        return pydantic.create_model(title, **fields)
    required: list[Any] = [(p.name, kinds[p.name]) for p in inputs if p.default is Parameter.empty]
    optional: list[Any] = [(p.name, kinds[p.name], _default(p)) for p in inputs if p.default is not Parameter.empty]
    return msgspec.defstruct(title, [*required, *optional], kw_only=True)


def _default(parameter: Parameter) -> Any:
    if isinstance(parameter.default, (list, dict, set)):
        made = parameter.default
        return msgspec.field(default_factory=lambda: made.copy())
    return parameter.default
