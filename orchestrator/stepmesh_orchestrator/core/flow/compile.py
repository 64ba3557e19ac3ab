"""A document → a `CompiledFlow`, or everything that is wrong with it.

Invariant: compiling is deterministic and pure; what compiles here once compiles for ever, since a stored flow is
compiled again after every restart. Nothing outside the document decides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow, CompiledStep, GatePlan
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostics, FlowInvalid
from stepmesh_orchestrator.core.flow.document import Document, from_value
from stepmesh_orchestrator.core.flow.expressions import Context, compile_expression
from stepmesh_orchestrator.core.flow.fields import Fields
from stepmesh_orchestrator.core.flow.findings import Findings
from stepmesh_orchestrator.core.flow.flow_schemas import ALIASES, FlowSchemas, read_schemas
from stepmesh_orchestrator.core.flow.gates import GATE_KEYS, IDEMPOTENCY, compile_gates, compile_idempotency
from stepmesh_orchestrator.core.flow.jsontext import dumps, flow_id, loads
from stepmesh_orchestrator.core.flow.limits import LIMITS, Limits
from stepmesh_orchestrator.core.flow.nodes import Node
from stepmesh_orchestrator.core.flow.overrides import apply_overrides
from stepmesh_orchestrator.core.flow.step_compiler import compile_step
from stepmesh_orchestrator.core.flow.testcases import check_examples, read_cases

FLOW_KEYS = (
    "name", "description", "version", "schemas", "steps", "output", "test", "examples", "metadata", "schema",
    *GATE_KEYS, IDEMPOTENCY, *ALIASES,
)  # fmt: skip


def compile_flow(
    document: Document | dict[str, Any], *, strict: bool = False, limits: Limits = LIMITS
) -> tuple[CompiledFlow | None, Diagnostics]:
    """The flow, unless there is a fatal or an error among the diagnostics. `strict` makes warnings errors.

    Raises `FlowInvalid` only when `document` is a dict that holds something else than JSON values within the limits.
    """
    source = document if isinstance(document, Document) else from_value(document, limits=limits)
    findings = Findings(source.position, strict=strict)
    flow = _compile(source.value, dumps(source.value), findings, limits)
    return flow, findings.diagnostics


def compile_stored(document: bytes, overrides: bytes | None = None, *, limits: Limits = LIMITS) -> CompiledFlow:
    """Compile a stored document (compact JSON), with overrides applied to its steps.

    `id` and `document` of the result are those of the document without overrides. Raises `FlowInvalid`.
    """
    try:
        value = loads(document)
    except ValueError as problem:
        raise FlowInvalid(f"the stored flow is not JSON: {problem}", Diagnostics(), code=Code.SYNTAX.code) from problem
    if overrides is not None:
        value = apply_overrides(value, overrides)
    source = from_value(value, limits=limits)
    findings = Findings(source.position)
    flow = _compile(source.value, document, findings, limits)
    if flow is None:
        raise invalid(findings.diagnostics)
    return flow


def invalid(diagnostics: Diagnostics, name: str = "the flow") -> FlowInvalid:
    """The error for diagnostics that failed: names the worst, counts the rest."""
    worst = min(diagnostics.items, key=lambda item: item.level)
    more = sum(item.level <= worst.level for item in diagnostics.items) - 1
    place = f":{worst.line}:{worst.column}" if worst.line else ""
    rest = f" (and {more} more)" if more else ""
    return FlowInvalid(f"{name}{place}: {worst.path}: {worst.message}{rest}", diagnostics, code=worst.code, hint=worst.hint)


def _compile(value: Any, text: bytes, findings: Findings, limits: Limits) -> CompiledFlow | None:
    if not isinstance(value, dict):
        findings.add(Code.TYPE, (), "a flow must be an object", "write {steps: […], output: …}")
        return None
    if len(text) > limits.document_bytes:
        message = f"{len(text):,} bytes of compact JSON, more than {limits.document_bytes:,}"
        findings.add(Code.LIMIT, (), message, "split the flow, or store the data as a blob")
        return None
    fields = Fields(value, (), findings, "the flow")
    fields.only(FLOW_KEYS, "a flow")
    _check_labels(fields)
    steps = fields.items("steps")
    if len(steps) > limits.steps:
        findings.add(
            Code.LIMIT, ("steps",), f"{len(steps):,} steps, more than {limits.steps:,}", "split it into sub-flows, or use /builtin/map"
        )
        return None
    indexes = _step_indexes(steps, findings)
    schemas = read_schemas(fields, indexes)
    compiled = [_step(step, index, indexes, schemas, findings) for index, step in enumerate(steps) if isinstance(step, dict)]
    declared = schemas.variables if schemas.declares_variables else None
    output = compile_expression(value.get("output"), ("output",), Context(indexes, len(steps), findings, declared, skip_is_null=True))
    _check_complexity(compiled, output, findings, limits)
    read_cases(fields)
    check_examples(fields)
    of_runs = Context(indexes, -1, findings, declared)
    gates, key = compile_gates(fields, of_runs), compile_idempotency(fields, of_runs)
    return None if findings.diagnostics.failed else replace(_assemble(fields, text, compiled, output, schemas, gates), idempotency=key)


def _assemble(
    fields: Fields, text: bytes, steps: list[CompiledStep], output: Node, schemas: FlowSchemas, gates: tuple[GatePlan, ...]
) -> CompiledFlow:
    return CompiledFlow(
        id=flow_id(text),
        name=fields.value.get("name") or "",
        document=text,
        steps=tuple(steps),
        output=output,
        must_execute=tuple(step.index for step in steps if step.must_execute),
        dependents=_dependents(steps, output),
        input_schema=schemas.input,
        output_schema=schemas.output,
        variables=schemas.variables,
        variables_schema=schemas.variables_schema,
        gates=gates,
    )


def _check_labels(fields: Fields) -> None:
    for key in ("name", "description"):
        if not fields.text(key):
            fields.report(Code.LABEL, key, f"the flow has no {key}", f"add `{key}:` at the top")
    fields.text("version")
    fields.inner("metadata")


def _step_indexes(steps: list[Any], findings: Findings) -> dict[str, int]:
    """Step id → index. Every id is checked here, so that references can be told right from wrong."""
    indexes: dict[str, int] = {}
    for index, step in enumerate(steps):
        fields = Fields([] if step is None else step, ("steps", index), findings, "the step")
        if not isinstance(step, dict):
            continue
        name = fields.required_text("id", "id: name")
        if name in indexes:
            fields.report(
                Code.DUPLICATE_STEP, "id", f"the step id `{name[:60]}` is taken by $.steps[{indexes[name]}]", "give each step its own id"
            )
        elif name:
            indexes[name] = index
    return indexes


def _step(step: dict[str, Any], index: int, indexes: dict[str, int], schemas: FlowSchemas, findings: Findings) -> CompiledStep:
    known = schemas.variables if schemas.declares_variables else None
    fields = Fields(step, ("steps", index), findings, "the step")
    return compile_step(fields, index, Context(indexes, index, findings, known), schemas.steps)


def _check_complexity(steps: list[CompiledStep], output: Node, findings: Findings, limits: Limits) -> None:
    """Conditional expressions are evaluated again whenever a step that they mention ends: bound that work for the whole item."""
    plans = [plan for step in steps for plan in (step.input, step.skip, step.on_error.default)] + [output]
    cost = sum(len(plan.mentions) * plan.size for plan in plans if isinstance(plan, Node) and not plan.static)
    if cost > limits.complexity:
        message = f"conditional expressions mention too many steps: {cost:,} evaluations, more than {limits.complexity:,}"
        findings.add(Code.LIMIT, (), message, "move the conditions into steps of their own, or split the flow")


def _dependents(steps: list[CompiledStep], output: Node) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _ in steps]
    for step in steps:
        plans = (step.input, step.skip, step.on_error.default)
        for mentioned in sorted({index for plan in plans if plan is not None for index in plan.mentions}):
            found[mentioned].append(step.index)
    for mentioned in output.mentions:
        found[mentioned].append(len(steps))
    return tuple(map(tuple, found))
