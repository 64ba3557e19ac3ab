"""Expressions of a document → plans. Names become indexes, literals become text; what is wrong becomes a finding.

Invariant: data is never parsed as code. Only what the document itself spells as `{$…: …}` outside of `$literal` is
an expression; what arrives in inputs and results is spliced as text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from stepmesh_orchestrator.core.flow import nodes, paths
from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.findings import Findings, nearest
from stepmesh_orchestrator.core.flow.jsontext import dumps
from stepmesh_orchestrator.core.flow.nodes import Literal, Node, Template
from stepmesh_orchestrator.core.flow.paths import Path, PathError

_NULL = Literal(nodes.NULL)
_INVALID = _NULL
"""Stands for what could not be compiled: a finding says so, and the flow is not used."""

# order of recognition; the keys that each form may have besides its own
FORMS: Mapping[str, tuple[str, ...]] = {
    "$literal": (),
    "$if": ("then", "else"),
    "$coalesce": (),
    "$step": ("path", "onSkip"),
    "$input": (),
    "$variable": ("default",),
    "$error": (),
}
_LIKE = 0.8  # difflib ratio: `$stpe` is like `$step`, `$set` and `$type` are not


@dataclass(frozen=True, slots=True)
class Context:
    """Where an expression stands. `step`: the index of its step; all steps before it may be referred to; the number of steps for the
    flow's output. `skip_is_null`: a reference to a skipped step gives null (in the output). `has_error`: `$error` is offered."""

    steps: Mapping[str, int]
    step: int
    findings: Findings
    variables: Mapping[str, Any] | None = None
    skip_is_null: bool = False
    has_error: bool = False

    def with_error(self) -> Context:
        """The same place, inside `onError.defaultValue`."""
        return replace(self, has_error=True)


def compile_expression(value: Any, path: Path, context: Context) -> Node:
    """The plan of `value`, which stands at `path` in the document. Always returns one; look at the findings."""
    form = _form(value)
    if form is not None:
        return _COMPILERS[form](value, path, context)
    if not isinstance(value, dict | list):
        return Literal(dumps(value))
    return _template(_parts(value, path, context))


def _form(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    return next((form for form in FORMS if form in value), "$from" if "$from" in value else None)


def _template(parts: list[bytes | Node]) -> Node:
    """Join neighbouring text, so that rendering copies as few chunks as there are holes."""
    chunks: list[bytes] = []
    holes: list[tuple[int, Node]] = []
    text: list[bytes] = []
    for part in parts:
        if isinstance(part, bytes):
            text.append(part)
            continue
        chunks += (b"".join(text), b"")
        text = []
        holes.append((len(chunks) - 1, part))
    chunks.append(b"".join(text))
    return Template(chunks, tuple(holes)) if holes else Literal(chunks[0])


def _parts(value: Any, path: Path, context: Context) -> list[bytes | Node]:
    """Text and parts of a plain value, in reading order, with the brackets of nested plain values merged in."""
    form = _form(value)
    if form is not None:
        node = _COMPILERS[form](value, path, context)
        return [node.text] if isinstance(node, Literal) else [node]
    if isinstance(value, dict):
        return _object_parts(value, path, context)
    if isinstance(value, list):
        parts: list[bytes | Node] = []
        for index, element in enumerate(value):
            parts.append(b"," if index else b"[")
            parts += _parts(element, (*path, index), context)
        return [*parts, b"]"] if parts else [b"[]"]
    return [dumps(value)]


def _object_parts(value: dict[str, Any], path: Path, context: Context) -> list[bytes | Node]:
    parts: list[bytes | Node] = []
    for key, member in value.items():
        if key[:1] == "$":
            _warn_of_lookalike(key, (*path, key), context)
        parts.append((b"," if parts else b"{") + dumps(key) + b":")
        parts += _parts(member, (*path, key), context)
    return [*parts, b"}"] if parts else [b"{}"]


def _warn_of_lookalike(key: str, path: Path, context: Context) -> None:
    if context.findings.crowded:
        return
    near = nearest(key, FORMS, cutoff=_LIKE)
    hint = f"did you mean `{near[0]}`?" if near else "pass it as a variable with `env_var`" if key == "$env" else ""
    if hint:
        context.findings.add(Code.MISSPELLED, path, f"`{key}` is a plain key here, not an expression", hint)


def _known_keys(value: dict[str, Any], form: str, path: Path, context: Context) -> None:
    for key in value:
        if key != form and key not in FORMS[form]:
            allowed = (form, *FORMS[form])
            context.findings.add(
                Code.EXPRESSION, (*path, key), f"`{key[:60]}` does not belong to `{form}`", context.findings.suggest(key, allowed)
            )


def _literal(value: dict[str, Any], path: Path, context: Context) -> Node:
    _known_keys(value, "$literal", path, context)
    return Literal(dumps(value["$literal"]))


def _if(value: dict[str, Any], path: Path, context: Context) -> Node:
    _known_keys(value, "$if", path, context)
    if "then" not in value:
        context.findings.add(Code.EXPRESSION, path, "`$if` has no `then`", "write {$if: condition, then: value, else: value}")
    condition = compile_expression(value["$if"], (*path, "$if"), context)
    then = compile_expression(value.get("then"), (*path, "then"), context)
    return nodes.If(condition, then, compile_expression(value.get("else"), (*path, "else"), context))


def _coalesce(value: dict[str, Any], path: Path, context: Context) -> Node:
    _known_keys(value, "$coalesce", path, context)
    elements = value["$coalesce"]
    if not isinstance(elements, list):
        context.findings.add(Code.EXPRESSION, (*path, "$coalesce"), "`$coalesce` wants a list", "write {$coalesce: [first, second]}")
        return _INVALID
    return nodes.Coalesce([compile_expression(element, (*path, "$coalesce", at), context) for at, element in enumerate(elements)])


def _step(value: dict[str, Any], path: Path, context: Context) -> Node:
    _known_keys(value, "$step", path, context)
    index = _step_index(value["$step"], (*path, "$step"), context)
    inside = _path(value.get("path"), (*path, "path"), context)
    default = _on_skip(value.get("onSkip"), (*path, "onSkip"), context)
    if index is None or inside is None:
        return _INVALID
    reference = nodes.StepPath(index, inside) if inside else nodes.StepValue(index)
    return reference if default is None else nodes.IfSkipped(reference, default)


def _step_index(name: Any, path: Path, context: Context) -> int | None:
    findings = context.findings
    if not isinstance(name, str):
        findings.add(Code.EXPRESSION, path, "`$step` wants the id of a step")
        return None
    index = context.steps.get(name)
    if index is None:
        findings.add(Code.UNKNOWN_STEP, path, f"there is no step `{name[:60]}`", findings.suggest(name, context.steps))
    elif index == context.step:
        findings.add(Code.SELF_REFERENCE, path, f"the step `{name[:60]}` refers to itself", "refer to a step above it")
    elif context.step < 0:
        findings.add(Code.FORWARD_REFERENCE, path, "this is told before any step has run", "use $input or $variable")
    elif index > context.step:
        findings.add(
            Code.FORWARD_REFERENCE, path, f"the step `{name[:60]}` stands below this one", "move it above: steps may only refer upwards"
        )
    else:
        return index
    return None


def _on_skip(policy: Any, path: Path, context: Context) -> Node | None:
    """The value to use for a skipped step; None when whoever refers to it is skipped."""
    findings = context.findings
    if policy is None:
        return _NULL if context.skip_is_null else None
    if not isinstance(policy, dict):
        findings.add(Code.EXPRESSION, path, "`onSkip` wants an object", "write onSkip: {action: useDefault, defaultValue: …}")
        return None
    for key in policy:
        if key not in ("action", "defaultValue"):
            findings.add(
                Code.EXPRESSION,
                (*path, key),
                f"`{key[:60]}` does not belong to `onSkip`",
                findings.suggest(key, ("action", "defaultValue")),
            )
    action = policy.get("action") or "skip"
    if action == "useDefault":
        return compile_expression(policy.get("defaultValue"), (*path, "defaultValue"), context)
    if action != "skip":
        findings.add(Code.EXPRESSION, (*path, "action"), "`onSkip.action` is neither `skip` nor `useDefault`")
    elif policy.get("defaultValue") is not None:
        findings.add(Code.UNUSED, (*path, "defaultValue"), "`defaultValue` has no effect with `action: skip`", "use `action: useDefault`")
    return _NULL if context.skip_is_null else None


def _input(value: dict[str, Any], path: Path, context: Context) -> Node:
    _known_keys(value, "$input", path, context)
    inside = _path(value["$input"], (*path, "$input"), context)
    return _INVALID if inside is None else nodes.InputValue(inside)


def _variable(value: dict[str, Any], path: Path, context: Context) -> Node:
    _known_keys(value, "$variable", path, context)
    default = compile_expression(value["default"], (*path, "default"), context) if "default" in value else None
    inside = _path(value["$variable"], (*path, "$variable"), context)
    if inside is None:
        return _INVALID
    if not inside or not isinstance(inside[0], str):
        context.findings.add(
            Code.EXPRESSION, (*path, "$variable"), "`$variable` wants the name of a variable first", "write $.name or $.name.field"
        )
        return _INVALID
    if context.variables is not None and inside[0] not in context.variables and default is None:
        hint = context.findings.suggest(inside[0], context.variables)
        context.findings.add(Code.UNKNOWN_VARIABLE, (*path, "$variable"), f"the variable `{inside[0][:60]}` is not declared", hint)
    return nodes.VariableValue(inside[0], inside[1:], default)


def _error(value: dict[str, Any], path: Path, context: Context) -> Node:
    _known_keys(value, "$error", path, context)
    if not context.has_error:
        context.findings.add(Code.EXPRESSION, path, "`$error` is only known inside `onError.defaultValue`")
        return _INVALID
    inside = _path(value["$error"], (*path, "$error"), context)
    return _INVALID if inside is None else nodes.ErrorValue(inside)


def _from(value: dict[str, Any], path: Path, context: Context) -> Node:
    hint = "write {$step: id, path: …} for a step's result, {$input: path} for the input"
    context.findings.add(Code.EXPRESSION, path, "`$from` is not part of this language", hint)
    return _INVALID


def _path(text: Any, path: Path, context: Context) -> Path | None:
    if text is not None and not isinstance(text, str):
        context.findings.add(Code.PATH, path, "a path must be a string", 'write "$.name[0]"')
        return None
    try:
        return paths.parse(text)
    except PathError as problem:
        context.findings.add(Code.PATH, path, str(problem), 'write "$.name[0]" or "$[\\"odd name\\"]"')
        return None


_COMPILERS: Mapping[str, Callable[[dict[str, Any], Path, Context], Node]] = {
    "$literal": _literal,
    "$if": _if,
    "$coalesce": _coalesce,
    "$step": _step,
    "$input": _input,
    "$variable": _variable,
    "$error": _error,
    "$from": _from,
}
