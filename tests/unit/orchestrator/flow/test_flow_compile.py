"""Documents → compiled flows: indexes, policies, every diagnostic with its place, and the limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepmesh_broker.protocol.ids import content_id
from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.compile import compile_flow, compile_stored, invalid
from stepmesh_orchestrator.core.flow.compiled import Backoff, CompiledFlow, CompiledStep, ErrorAction
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostic, FlowInvalid, Level
from stepmesh_orchestrator.core.flow.document import load
from stepmesh_orchestrator.core.flow.findings import MAX_PER_LEVEL
from stepmesh_orchestrator.core.flow.jsontext import dumps
from stepmesh_orchestrator.core.flow.limits import LIMITS

LABELS = "name: n\ndescription: d\n"


def good(text: str) -> CompiledFlow:
    flow, diagnostics = compile_flow(load(LABELS + text))
    assert diagnostics.items == []
    assert flow is not None
    return flow


def step(text: str) -> CompiledStep:
    return good(f"steps:\n- {{id: a, component: /p/c}}\n- {{id: s, component: /p/c, {text}}}").steps[1]


def found(text: str, strict: bool = False) -> list[Diagnostic]:
    flow, diagnostics = compile_flow(load(LABELS + text), strict=strict)
    assert (flow is None) is diagnostics.failed
    return diagnostics.items


def only(text: str) -> Diagnostic:
    (item,) = found(text)
    return item


# --- what a flow becomes --------------------------------------------------------------------------------


def test_the_smallest_flow() -> None:
    flow, diagnostics = compile_flow({})
    assert flow is not None
    assert (flow.steps, flow.must_execute, flow.dependents, flow.name) == ((), (), (), "")
    assert flow.output.mentions == ()
    assert [(item.code, item.level) for item in diagnostics.items] == [("SM-2015", Level.WARNING)] * 2


def test_a_step_with_everything() -> None:
    flow = good(
        """
steps:
  - {id: a, component: /p/a}
  - id: s
    component: /gpu/embed
    input: {x: {$step: a}}
    skip: {$input: off}
    onError:
      action: retry
      maxRetries: 5
      defaultValue: {why: {$error: message}, x: {$step: a}}
      backoff: {type: fibonacci, initial: 10ms, max: 5s, factor: 3, jitter: 0.5}
    mustExecute: true
    timeout: PT2M
    pool: big-gpu
    priority: -3
    concurrencyKey: {$input: user}
    metadata: {owner: me}
output: {$step: s}
"""
    )
    made = flow.steps[1]
    assert (made.index, made.id, made.component, made.pool, made.priority) == (1, "s", "/gpu/embed", "big-gpu", -3)
    assert (made.timeout_ms, made.must_execute, made.metadata) == (120_000, True, {"owner": "me"})
    assert made.on_error.action is ErrorAction.RETRY
    assert made.on_error.max_retries == 5
    assert made.on_error.backoff == Backoff("fibonacci", 10, 5_000, 3.0, 0.5)
    assert made.on_error.default is not None
    assert made.on_error.default.mentions == (0,)
    assert made.skip is not None
    assert made.concurrency_key is not None
    assert flow.must_execute == (1,)
    assert flow.dependents == ((1,), (2,))
    assert flow.step_index("s") == 1
    assert flow.step_index("z") is None


def test_defaults_and_explicit_nulls_are_the_same() -> None:
    keys = ["input", "onError", "mustExecute", "metadata", "skip", "timeout", "pool", "priority", "concurrencyKey"]
    plain, nulls = step(""), step(", ".join(f"{key}: null" for key in keys))
    for made in (plain, nulls):
        assert (made.skip, made.pool, made.concurrency_key, made.output_schema) == (None, None, None, None)
        assert (made.must_execute, made.timeout_ms, made.priority, made.metadata) == (False, 0, 0, {})
        assert made.on_error.action is ErrorAction.FAIL
        assert (made.on_error.max_retries, made.on_error.default, made.on_error.backoff) == (3, None, None)
    assert good("steps: null\noutput: null\nschemas: null\ntest: null\nexamples: null\nmetadata: null\nversion: null").steps == ()


def test_error_policies() -> None:
    assert step("onError: {action: useDefault}").on_error.default is None
    assert step("onError: {action: useDefault, defaultValue: 0}").on_error.default is not None
    assert step("onError: {action: retry}").on_error.max_retries == 3
    assert step("onError: {action: retry, maxRetries: 0}").on_error.max_retries == 0
    assert step("onError: {action: retry, backoff: {}}").on_error.backoff == Backoff()
    assert step("onError: {action: retry, backoff: {initial: 5m}}").on_error.backoff == Backoff(initial_ms=300_000, max_ms=300_000)
    assert step("onError: {action: retry, backoff: {jitter: true}}").on_error.backoff == Backoff(jitter=1.0)
    assert step("onError: {action: retry, backoff: {jitter: false, type: constant}}").on_error.backoff == Backoff("constant", jitter=0.0)


def test_dependents_name_who_mentions_a_step_and_the_output_last() -> None:
    flow = good(
        """
steps:
  - {id: a, component: /p/c}
  - {id: b, component: /p/c, input: [{$step: a}, {$step: a, path: x}], skip: {$step: a}}
  - {id: c, component: /p/c, input: {$if: {$step: a}, then: {$step: b}}}
  - {id: d, component: /p/c, onError: {action: useDefault, defaultValue: {$step: b}}}
output: {x: {$step: a}, y: {$literal: {$step: c}}}
"""
    )
    assert flow.dependents == ((1, 2, 4), (2, 3), (), ())


def test_the_id_is_that_of_the_compact_document_in_source_order() -> None:
    flow = good("x-note: 1\noutput: {b: 1.0, a: é}")
    assert flow.document == '{"name":"n","description":"d","x-note":1,"output":{"b":1.0,"a":"é"}}'.encode()
    assert flow.id == content_id(flow.document)
    assert compile_stored(flow.document).id == flow.id
    assert compile_flow(load(flow.document))[0].id == flow.id  # type: ignore[union-attr]  # it compiled just above


def test_schema_key_and_x_keys_are_ignored_everywhere() -> None:
    assert good("schema: https://example.org/s\nx-a: 1\nsteps: [{id: a, component: /p/c, x-b: 2, onError: {x-c: 3}}]").steps[0].id == "a"


# --- what can be wrong ----------------------------------------------------------------------------------

STEP = "steps:\n- {id: a, component: /p/c}\n- {id: s, component: /p/c, %s}"


@pytest.mark.parametrize(
    ("text", "code", "path", "words"),
    [
        ("stpes: []", "SM-2011", "$.stpes", "not a key of a flow"),
        (STEP % "onEror: {}", "SM-2011", "$.steps[1].onEror", "not a key of a step"),
        (STEP % "onError: {acton: fail}", "SM-2011", "$.steps[1].onError.acton", "not a key"),
        (STEP % "onError: {action: retry, backoff: {typ: constant}}", "SM-2011", "$.steps[1].onError.backoff.typ", "not a key"),
        ("steps: {}", "SM-2010", "$.steps", "must be a list, not an object"),
        ("steps: [3]", "SM-2010", "$.steps[0]", "must be an object, not an integer"),
        ("steps: [null]", "SM-2010", "$.steps[0]", "must be an object"),
        ("version: 3", "SM-2010", "$.version", "must be a string, not an integer"),
        ("metadata: []", "SM-2010", "$.metadata", "must be an object, not a list"),
        ("steps: [{component: /p/c}]", "SM-2012", "$.steps[0]", "no `id`"),
        ("steps: [{id: '', component: /p/c}]", "SM-2013", "$.steps[0].id", "empty"),
        ("steps: [{id: 3, component: /p/c}]", "SM-2010", "$.steps[0].id", "must be a string"),
        ("steps: [{id: a}]", "SM-2012", "$.steps[0]", "no `component`"),
        ("steps: [{id: a, component: p/c}]", "SM-2013", "$.steps[0].component", "does not begin with `/`"),
        ("steps: [{id: a, component: /}]", "SM-2013", "$.steps[0].component", "names no component"),
        ("steps: [{id: a, component: ''}]", "SM-2013", "$.steps[0].component", "empty"),
        ("steps: [{id: a, component: /p/c}, {id: a, component: /p/c}]", "SM-2020", "$.steps[1].id", "taken by $.steps[0]"),
        (STEP % "input: {$step: s}", "SM-2022", "$.steps[1].input.$step", "itself"),
        ("steps: [{id: a, component: /p/c, input: {$step: b}}, {id: b, component: /p/c}]", "SM-2021", "$.steps[0].input.$step", "below"),
        (STEP % "input: {$step: aa}", "SM-2023", "$.steps[1].input.$step", "no step `aa`"),
        ("output: {$step: a}", "SM-2023", "$.output.$step", "no step `a`"),
        (STEP % "input: {$error: x}", "SM-2025", "$.steps[1].input", "only known inside"),
        (STEP % "timeout: 5 parsecs", "SM-2013", "$.steps[1].timeout", "not a duration"),
        (STEP % "timeout: -1", "SM-2013", "$.steps[1].timeout", "not a duration"),
        (STEP % "pool: a b", "SM-2013", "$.steps[1].pool", "not a pool name"),
        (STEP % "pool: []", "SM-2010", "$.steps[1].pool", "must be a string"),
        (STEP % "priority: 1.5", "SM-2010", "$.steps[1].priority", "must be an integer, not a number"),
        (STEP % "priority: true", "SM-2010", "$.steps[1].priority", "must be an integer, not a boolean"),
        (STEP % "priority: 3000000000", "SM-2013", "$.steps[1].priority", "between"),
        (STEP % "mustExecute: 1", "SM-2010", "$.steps[1].mustExecute", "must be a boolean"),
        (STEP % "metadata: x", "SM-2010", "$.steps[1].metadata", "must be an object"),
        (STEP % "onError: retry", "SM-2010", "$.steps[1].onError", "must be an object"),
        (STEP % "onError: {action: retyr}", "SM-2013", "$.steps[1].onError.action", "not one of its values"),
        (STEP % "onError: {action: retry, maxRetries: -1}", "SM-2013", "$.steps[1].onError.maxRetries", "between"),
        (STEP % "onError: {action: fail, defaultValue: 1}", "SM-2014", "$.steps[1].onError.defaultValue", "no effect"),
        (STEP % "onError: {action: useDefault, maxRetries: 1}", "SM-2014", "$.steps[1].onError.maxRetries", "no effect"),
        (STEP % "onError: {action: retry, backoff: {type: linear}}", "SM-2013", "$.steps[1].onError.backoff.type", "not one of"),
        (STEP % "onError: {action: retry, backoff: {initial: 2s, max: 1s}}", "SM-2013", "$.steps[1].onError.backoff.max", "shorter"),
        (STEP % "onError: {action: retry, backoff: {factor: 0.5}}", "SM-2013", "$.steps[1].onError.backoff.factor", "between"),
        (STEP % "onError: {action: retry, backoff: {jitter: 2}}", "SM-2013", "$.steps[1].onError.backoff.jitter", "between"),
        (STEP % "onError: {action: retry, backoff: {jitter: x}}", "SM-2010", "$.steps[1].onError.backoff.jitter", "must be a number"),
        ("examples: [{input: 1}]", "SM-2012", "$.examples[0]", "no `name`"),
        ("examples: [1]", "SM-2010", "$.examples[0]", "must be an object"),
        ("test: {case: []}", "SM-2011", "$.test.case", "not a key"),
        ("test: {cases: [{name: a}, {name: a}]}", "SM-2050", "$.test.cases[1].name", "two test cases"),
    ],
)
def test_every_mistake_is_found_once_at_its_place(text: str, code: str, path: str, words: str) -> None:
    items = found(text)
    assert [(item.code, item.path) for item in items] == [(code, path)]
    assert words in items[0].message
    assert (items[0].line or 0) >= 3
    assert items[0].level is next(member.level for member in Code if member.code == code)


def test_line_and_column_of_a_finding() -> None:
    item = only("steps:\n  - id: a\n    component: /p/c\n    onEror: {}\n")
    assert (item.line, item.column, item.hint) == (6, 5, "did you mean `onError`?")


def test_nearest_names_are_offered() -> None:
    assert "`embed_texts`" in only("steps: [{id: embed_texts, component: /p/c}]\noutput: {$step: embed_text}").hint
    assert "known: a, s" in only((STEP % "") + "\noutput: {$step: zzzzzz}").hint
    assert "`onError`" in found(STEP % "on_error: {}")[0].hint
    assert "`retry`" in only(STEP % "onError: {action: Retry}").hint


def test_labels_are_worth_a_warning() -> None:
    _, diagnostics = compile_flow(load("name: ''\nsteps: []"))
    assert [(item.path, item.level) for item in diagnostics.items] == [("$.name", Level.WARNING), ("$.description", Level.WARNING)]


def test_strict_makes_errors_of_warnings() -> None:
    assert found("stpes: []")[0].level is Level.WARNING
    assert found("stpes: []", strict=True)[0].level is Level.ERROR
    flow, diagnostics = compile_flow(load("steps: []"), strict=True)
    assert flow is None
    assert diagnostics.failed


@pytest.mark.parametrize("text", ["", "[]", "3", "x", "null"])
def test_a_document_that_is_no_object(text: str) -> None:
    flow, diagnostics = compile_flow(load(text))
    assert flow is None
    assert [(item.code, item.path) for item in diagnostics.items] == [("SM-2010", "$")]


def test_all_mistakes_are_found_in_one_go() -> None:
    codes = [item.code for item in found("steps: [{id: a, component: x, input: {$step: q}, timeout: z}, {id: a}]\noutput: {$from: 1}")]
    assert sorted(codes) == ["SM-2012", "SM-2013", "SM-2013", "SM-2020", "SM-2023", "SM-2025"]


def test_a_dict_that_is_not_json_is_refused() -> None:
    with pytest.raises(FlowInvalid, match="not a JSON number"):
        compile_flow({"output": float("nan")})


def test_codes_are_unique_and_in_range() -> None:
    codes = [member.code for member in Code]
    assert len(set(codes)) == len(codes)
    assert all(code.startswith("SM-20") and len(code) == 7 for code in codes)


# --- stored flows ---------------------------------------------------------------------------------------


def test_stored_flows_compile_without_labels_and_with_warnings() -> None:
    flow = compile_stored(b'{"steps":[{"id":"a","component":"/p/c","zzz":1}],"output":{"$step":"a"}}')
    assert flow.dependents == ((1,),)


def test_a_stored_flow_that_is_wrong_raises_with_every_finding() -> None:
    with pytest.raises(FlowInvalid) as raised:
        compile_stored(b'{"steps":[{"id":"a","component":"x"}],"output":{"$step":"b"}}')
    assert raised.value.code == "SM-2023"
    assert "(and" not in raised.value.message
    assert {item.code for item in raised.value.diagnostics.items} == {"SM-2013", "SM-2023", "SM-2015"}
    for text in (b"{", b"[", b"\xff", b'{"output": NaN}', b"[]"):
        with pytest.raises(FlowInvalid):
            compile_stored(text)


def test_overrides_change_the_steps_but_not_the_identity() -> None:
    document = dumps({"steps": [{"id": "a", "component": "/p/c", "timeout": 1}], "output": {"$step": "a"}})
    plain = compile_stored(document)
    patched = compile_stored(
        document, b'{"steps":{"a":{"$type":"merge_patch","value":{"component":"/q/d","timeout":null,"input":{"k":1}}}}}'
    )
    assert (plain.steps[0].component, plain.steps[0].timeout_ms) == ("/p/c", 1_000)
    assert (patched.steps[0].component, patched.steps[0].timeout_ms) == ("/q/d", 0)
    assert (patched.id, patched.document) == (plain.id, document)
    with pytest.raises(FlowInvalid) as raised:
        compile_stored(document, b'{"a":{"value":{"input":{"$step":"a"}}}}')
    assert raised.value.code == "SM-2022"


def test_the_error_names_the_worst_and_counts_the_rest() -> None:
    _, diagnostics = compile_flow(load("steps:\n- {id: a, component: /p/c, input: [{$step: x}, {$step: y}], pool: '?'}"))
    problem = invalid(diagnostics, "f.yaml")
    assert problem.message == "f.yaml:2:37: $.steps[0].input[0].$step: there is no step `x` (and 1 more)"
    assert (problem.code, problem.hint) == ("SM-2023", "known: a")


# --- limits ---------------------------------------------------------------------------------------------


def chain(count: int) -> dict[str, Any]:
    steps = [{"id": f"s{n}", "component": "/p/c", "input": {"x": {"$step": f"s{n - 1}"}} if n else None} for n in range(count)]
    return {"name": "n", "description": "d", "steps": steps, "output": {"$step": f"s{count - 1}"}}


def test_the_number_of_steps() -> None:
    limits = replace(LIMITS, steps=5)
    assert compile_flow(chain(5), limits=limits)[0] is not None
    flow, diagnostics = compile_flow(chain(6), limits=limits)
    assert flow is None
    assert [(item.code, item.path) for item in diagnostics.items] == [("SM-2007", "$.steps")]


def test_the_size_of_what_is_stored() -> None:
    text = "name: n\ndescription: d\nmetadata: {a: &a xxxxxxxxxxxxxxxxxxxx, b: *a, c: *a}"
    document = dumps(load(text).value)
    limits = replace(LIMITS, document_bytes=len(document))
    assert len(text) < len(document)
    assert compile_flow(load(text), limits=limits)[0] is not None
    assert compile_stored(document, limits=limits).document == document
    limits = replace(LIMITS, document_bytes=len(document) - 1)
    flow, diagnostics = compile_flow(load(text), limits=limits)
    assert flow is None
    assert [item.code for item in diagnostics.items] == ["SM-2007"]
    with pytest.raises(FlowInvalid, match="compact JSON"):
        compile_stored(document, limits=limits)


def accepted(read: Callable[[], object]) -> bool:
    try:
        read()
    except FlowInvalid:
        return False
    return True


@pytest.mark.parametrize("leaf", ["x", "12345678", "1.5", "true", "null", "[]", "{k: v}"])
def test_what_loads_at_a_limit_also_compiles_from_the_store(leaf: str) -> None:
    text = f"name: n\ndescription: d\nmetadata: {{l: [{', '.join([leaf] * 20)}]}}"
    for limits in [replace(LIMITS, nodes=nodes) for nodes in range(20, 100)] + [
        replace(LIMITS, expanded_characters=size) for size in range(20, 220)
    ]:
        document = dumps(load(text).value)
        assert accepted(lambda: load(text, limits=limits)) is accepted(lambda: compile_stored(document, limits=limits))  # noqa: B023


def test_ten_thousand_steps_compile_and_one_more_does_not() -> None:
    flow, _ = compile_flow(load(json.dumps(chain(10_000))))
    assert flow is not None
    assert flow.dependents[9_998] == (9_999,)
    assert compile_flow(chain(10_001))[0] is None


def conditional(steps: int, references: int) -> dict[str, Any]:
    flow = chain(steps)
    flow["output"] = {"$if": True, "then": [{"$step": f"s{n % steps}"} for n in range(references)]}
    return flow


def test_the_complexity_of_conditional_expressions() -> None:
    # 3 steps mentioned x (if + condition + list + 7 references with a value when skipped + else) parts
    limits = replace(LIMITS, complexity=3 * (1 + 1 + 1 + 7 * 2 + 1))
    assert compile_flow(conditional(3, 7), limits=limits)[0] is not None
    flow, diagnostics = compile_flow(conditional(3, 8), limits=limits)
    assert flow is None
    assert [item.code for item in diagnostics.items] == ["SM-2007"]
    plain = conditional(3, 1_000)
    plain["output"] = plain["output"]["then"]
    assert compile_flow(plain, limits=limits)[0] is not None


def test_the_usual_complexity_limit_refuses_a_flow_that_would_stall_its_shard() -> None:
    assert compile_flow(conditional(1_000, 9_998))[0] is not None
    assert compile_flow(conditional(1_000, 9_999))[0] is None


def test_a_document_with_very_many_mistakes_stays_small_and_keeps_its_errors() -> None:
    steps: list[dict[str, Any]] = [{"id": f"s{n}", "component": "/p/c", "inptu": 1} for n in range(5_000)]
    steps.append({"id": "s0", "component": "x", "input": {"$step": "nobody"}})
    flow, diagnostics = compile_flow({"name": "n", "description": "d", "steps": steps})
    assert flow is None
    assert len(diagnostics.items) == MAX_PER_LEVEL + 3
    assert {item.code for item in diagnostics.items} == {"SM-2011", "SM-2020", "SM-2013", "SM-2023"}
    steps = [{"id": f"step-number-{n}", "component": "/p/c", "input": {"$step": f"stpe-number-{n}"}} for n in range(5_000)]
    _, diagnostics = compile_flow({"name": "n", "description": "d", "steps": steps})
    assert len(diagnostics.items) == MAX_PER_LEVEL


def test_a_crowded_list_is_not_filled_with_guesses() -> None:
    _, diagnostics = compile_flow({"name": "n", "description": "d", "output": [{"$stpe": n} for n in range(10_000)]})
    assert 50 <= len(diagnostics.items) <= MAX_PER_LEVEL
    assert all(item.code == "SM-2026" for item in diagnostics.items)


def test_a_megabyte_expression_compiles() -> None:
    flow, _ = compile_flow({"name": "n", "description": "d", "output": {"text": "x" * 1_000_000, "list": list(range(100_000))}})
    assert flow is not None


# --- anything at all ------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    ["name", "steps", "output", "schemas", "test", "examples", "inputSchema", "id", "component", "input", "onError", "skip", "properties"]
)
FORMS = st.sampled_from(
    ["$step", "$if", "then", "$coalesce", "$input", "path", "onSkip", "$variable", "default", "$error", "$literal", "$from", "action"]
)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["a", "/p/c", "$.x", "retry", "", "$.["])
    | st.floats(allow_nan=False, allow_infinity=False)
)
ANY = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | FORMS, inner, max_size=4), max_leaves=20)
STEPS = st.lists(
    st.dictionaries(st.sampled_from(["id", "component", "input", "onError", "skip", "timeout", "pool", "metadata"]), ANY, max_size=6),
    max_size=4,
)


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {}, optional={"name": ANY, "steps": STEPS | ANY, "output": ANY, "schemas": ANY, "test": ANY, "examples": ANY, "inputSchema": ANY}
    )
)
def test_any_json_compiles_or_says_why_not(document: dict[str, Any]) -> None:
    flow, diagnostics = compile_flow(document)
    assert (flow is None) is diagnostics.failed
    assert all(item.path.startswith("$") and item.message for item in diagnostics.items)
    if flow is not None:
        assert compile_stored(flow.document).id == flow.id
