"""Expressions, one rule of the language at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostic
from stepmesh_orchestrator.core.flow.document import from_value
from stepmesh_orchestrator.core.flow.expressions import Context, compile_expression
from stepmesh_orchestrator.core.flow.findings import Findings
from stepmesh_orchestrator.core.flow.jsontext import dumps, loads
from stepmesh_orchestrator.core.flow.nodes import Node
from stepmesh_orchestrator.core.flow.plan import SKIPPED, Outcome, PlanFailed, PlanSkipped

STEPS = {"a": 0, "b": 1, "c": 2, "d": 3}
BOOM = Failure(ErrorCode.COMPONENT_FAILED, "boom", b'{"t":1}')
BANG = Failure(ErrorCode.TIMEOUT, "bang")


@dataclass
class World:
    """A scope. Steps not given have not ended."""

    input: bytes = b"null"
    variables: Mapping[str, bytes] = field(default_factory=dict)
    outcomes: list[Outcome | None] = field(default_factory=lambda: [None, None, None, None])
    error: bytes | None = None


def world(a: Outcome | None = None, b: Outcome | None = None, c: Outcome | None = None, d: Outcome | None = None, **rest: Any) -> World:
    return World(outcomes=[a, b, c, d], **rest)


def compiled(expression: Any, **context: Any) -> tuple[Node, list[Diagnostic]]:
    source = from_value(expression)
    findings = Findings(source.position)
    return compile_expression(source.value, (), Context(STEPS, 4, findings, **context)), findings.diagnostics.items


def plan(expression: Any, **context: Any) -> Node:
    node, found = compiled(expression, **context)
    assert found == []
    return node


def value(expression: Any, scope: World, **context: Any) -> Any:
    node = plan(expression, **context)
    assert node.blockers(scope) == []
    return loads(node.render(scope))


def failure(expression: Any, scope: World, **context: Any) -> Failure:
    with pytest.raises(PlanFailed) as raised:
        plan(expression, **context).render(scope)
    return raised.value.failure


def message(expression: Any, scope: World, **context: Any) -> str:
    found = failure(expression, scope, **context)
    assert found.code == ErrorCode.EXPRESSION_FAILURE
    return found.message


def skips(expression: Any, scope: World, **context: Any) -> bool:
    try:
        plan(expression, **context).render(scope)
    except PlanSkipped:
        return True
    return False


# --- literals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "literal", [None, True, 42, 1.0, 10**40, "x", "", [], {}, [[], {}], {"a": [1, {"b": None}]}, {"$ref": "#/$defs/X"}, "{$step: a}"]
)
def test_literals_are_themselves(literal: Any) -> None:
    node = plan(literal)
    assert node.render(World()) == dumps(literal)
    assert (node.static, node.mentions, node.blockers(World())) == (True, (), [])


def test_escaped_literals_are_not_looked_into() -> None:
    inner = {"$step": "nobody", "$if": 1, "$from": {"$literal": 2}}
    assert value({"x": {"$literal": inner}, "y": [{"$literal": None}]}, World()) == {"x": inner, "y": [None]}


def test_data_is_never_code() -> None:
    hostile = b'{"$step":"a","x":"{{ 7*7 }}","$literal":{"$input":"$"},"y":"$.a.__class__"}'
    scope = world(a=hostile, input=hostile)
    assert plan({"q": {"$step": "a"}, "r": {"$input": None}}).render(scope) == b'{"q":' + hostile + b',"r":' + hostile + b"}"
    assert plan({"$step": "a", "path": "x"}).render(scope) == b'"{{ 7*7 }}"'
    assert message({"$step": "a", "path": "__class__"}, scope) == "Path $.__class__ not found"


# --- references -----------------------------------------------------------------------------------------


def test_a_whole_result_is_the_very_same_text() -> None:
    text = b'{"n" : 1.50, "big":12345678901234567890123}'
    assert plan({"$step": "a"}).render(world(a=text)) is text
    assert plan([{"$step": "a"}, 1]).render(world(a=text)) == b"[" + text + b",1]"


def test_step_paths() -> None:
    scope = world(a=b'{"name":"n","dotted.key":5,"list":[10,20,{"deep":1e2}]}')
    assert value({"$step": "a", "path": "name"}, scope) == "n"
    assert value({"$step": "a", "path": "dotted.key"}, scope) == 5
    assert value({"$step": "a", "path": '$["dotted.key"]'}, scope) == 5
    assert plan({"$step": "a", "path": "$.list[2].deep"}).render(scope) == b"1e2"
    assert value({"$step": "a", "path": None}, scope)["name"] == "n"
    assert value({"$step": "a", "path": "$"}, scope)["name"] == "n"
    assert message({"$step": "a", "path": "$.list[9]"}, scope) == "Path $.list[9] not found"
    assert message({"$step": "a", "path": "x y"}, scope) == 'Path $["x y"] not found'


def test_a_null_result_is_null_at_every_path_but_a_null_inside_is_not() -> None:
    assert value({"$step": "a", "path": "$.x[3]"}, world(a=b"null")) is None
    assert message({"$step": "a", "path": "$.x.y"}, world(a=b'{"x":null}')) == "Path $.x.y not found"
    assert message({"$step": "a", "path": "$.x"}, world(a=b'"null"')) == "Path $.x not found"


def test_a_failed_step_propagates_the_same_error() -> None:
    assert failure({"$step": "a"}, world(a=BOOM)) is BOOM
    assert failure({"$step": "a", "path": "$.x"}, world(a=BOOM)) is BOOM
    assert failure([1, {"x": {"$step": "a"}}], world(a=BOOM)) is BOOM


def test_input() -> None:
    scope = World(input=b'{"k":[1,{"z":2}]}')
    for whole in ("$", "", None):
        assert plan({"$input": whole}).render(scope) == scope.input
    assert value({"$input": "$.k[1].z"}, scope) == 2
    assert message({"$input": "x"}, scope) == "Input path $.x not found"
    assert message({"$input": "x"}, World(input=b"null")) == "Input path $.x not found"


def test_variables() -> None:
    scope = World(variables={"cfg": b'{"a":{"b":3}}', "none": b"null", "a.b": b"1"})
    assert value({"$variable": "cfg"}, scope) == {"a": {"b": 3}}
    assert value({"$variable": "$.cfg.a.b"}, scope) == 3
    assert value({"$variable": "a.b"}, scope) == 1
    assert value({"$variable": '$["a.b"]'}, scope) == 1
    assert value({"$variable": "none", "default": 5}, scope) is None
    assert value({"$variable": "$.cfg.zz", "default": 9}, scope) == 9
    assert value({"$variable": "zz", "default": None}, scope) is None
    assert value({"$variable": "zz", "default": {"$variable": "$.yy", "default": {"$input": "$"}}}, scope) is None
    assert message({"$variable": "x"}, scope) == "Undefined variable: x"
    assert message({"$variable": "$.cfg.zz"}, scope) == "Undefined variable: $.cfg.zz"


def test_a_default_of_a_variable_is_needed_only_without_the_variable() -> None:
    node = plan({"$variable": "v", "default": {"$step": "a"}})
    assert (node.static, node.mentions) == (False, (0,))
    assert node.blockers(World(variables={"v": b"1"})) == []
    assert node.blockers(World()) == [0]
    assert node.render(world(a=b"7")) == b"7"


def test_error_inside_a_default_value() -> None:
    scope = World(error=b'{"code":"TIMEOUT","message":"late"}')
    assert value({"why": {"$error": "code"}, "all": {"$error": "$"}}, scope, has_error=True)["why"] == "TIMEOUT"
    assert message({"$error": "data"}, scope, has_error=True) == "Error path $.data not found"
    assert value({"$error": None}, World(), has_error=True) is None
    assert [item.code for item in compiled({"x": {"$error": "code"}})[1]] == ["SM-2025"]


# --- if -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "taken"),
    [(b"null", "no"), (b"false", "no"), (b"0", "yes"), (b'""', "yes"), (b"[]", "yes"), (b"{}", "yes"), (b'"false"', "yes")],
)
def test_only_null_and_false_are_falsy(text: bytes, taken: str) -> None:
    assert value({"$if": {"$step": "a"}, "then": "yes", "else": "no"}, world(a=text)) == taken


def test_if_without_else_is_null() -> None:
    assert value({"$if": False, "then": 1}, World()) is None
    assert value({"$if": None, "then": 1, "else": None}, World()) is None


def test_a_failed_condition_is_falsy_and_a_skipped_one_skips() -> None:
    expression = {"$if": {"$step": "a"}, "then": 1, "else": 2}
    assert value(expression, world(a=BOOM)) == 2
    assert skips(expression, world(a=SKIPPED))
    assert value({"$if": [{"$step": "a"}, {"$step": "b"}], "then": 1, "else": 2}, world(a=SKIPPED, b=BOOM)) == 2
    assert plan(expression).blockers(world(a=SKIPPED)) == []


def test_if_needs_the_condition_first_then_one_branch() -> None:
    node = plan({"$if": {"$step": "a"}, "then": {"$step": "b"}, "else": [{"$step": "c"}, {"$step": "d"}]})
    assert (node.static, node.mentions) == (False, (0, 1, 2, 3))
    assert node.blockers(world()) == [0]
    assert node.blockers(world(a=b"1")) == [1]
    assert node.blockers(world(a=b"null")) == [2, 3]
    assert node.blockers(world(a=BOOM, d=b"1")) == [2]
    assert node.blockers(world(a=b"1", b=BOOM)) == []
    assert node.render(world(a=b"1", b=b"5")) == b"5"
    assert failure({"$if": True, "then": {"$step": "a"}, "else": 1}, world(a=BOOM)) is BOOM


# --- coalesce -------------------------------------------------------------------------------------------


def test_coalesce_takes_the_first_that_is_not_null() -> None:
    expression = {"$coalesce": [{"$step": "a"}, {"$step": "b", "path": "n"}, "fallback"]}
    assert value(expression, world(a=b"false")) is False
    assert value(expression, world(a=b"0")) == 0
    assert value(expression, world(a=b"null", b=b'{"n":1}')) == 1
    assert value(expression, world(a=b"null", b=b'{"n":null}')) == "fallback"
    assert value({"$coalesce": [None, {"$step": "a"}]}, world(a=b"null")) is None
    assert value({"$coalesce": []}, World()) is None


def test_coalesce_propagates_failures_and_passes_over_skips() -> None:
    expression = {"$coalesce": [{"$step": "a"}, {"$step": "b"}]}
    assert failure(expression, world(a=BOOM, b=b"1")) is BOOM
    assert value(expression, world(a=SKIPPED, b=b"1")) == 1
    assert value(expression, world(a=SKIPPED, b=SKIPPED)) is None
    assert value({"$coalesce": [{"x": {"$step": "a"}}, 2]}, world(a=SKIPPED)) == 2
    assert plan(expression).blockers(world(a=BOOM)) == []


def test_coalesce_needs_one_element_at_a_time() -> None:
    node = plan({"$coalesce": [[{"$step": "b"}, {"$step": "a"}], {"$step": "c"}]})
    assert (node.static, node.mentions) == (False, (0, 1, 2))
    assert node.blockers(world()) == [0, 1]
    assert node.blockers(world(a=b"1")) == [1]
    assert node.blockers(world(a=b"1", b=b"1")) == []
    node = plan({"$coalesce": [{"$step": "a"}, {"$step": "b"}, {"$step": "c"}]})
    assert node.blockers(world(a=b"null")) == [1]
    assert node.blockers(world(a=SKIPPED, b=b"null")) == [2]
    assert node.blockers(world(a=SKIPPED, b=b"null", c=b"null")) == []


# --- skips ----------------------------------------------------------------------------------------------


def test_a_reference_to_a_skipped_step_skips() -> None:
    assert skips({"$step": "a"}, world(a=SKIPPED))
    assert skips({"$step": "a", "path": "x", "onSkip": {"action": "skip"}}, world(a=SKIPPED))
    assert skips({"$step": "a", "onSkip": None}, world(a=SKIPPED))
    assert skips([1, {"x": {"$step": "a"}}], world(a=SKIPPED))


def test_on_skip_use_default() -> None:
    expression = {"$step": "a", "path": "x", "onSkip": {"action": "useDefault", "defaultValue": {"d": {"$step": "b"}}}}
    node = plan(expression)
    assert (node.static, node.mentions) == (False, (0, 1))
    assert node.blockers(world()) == [0]
    assert node.blockers(world(a=b"{}")) == []
    assert node.blockers(world(a=SKIPPED)) == [1]
    assert value(expression, world(a=SKIPPED, b=b"1")) == {"d": 1}
    assert value(expression, world(a=b'{"x":2}')) == 2
    assert failure(expression, world(a=BOOM)) is BOOM
    assert skips(expression, world(a=SKIPPED, b=SKIPPED))
    assert value({"$step": "a", "onSkip": {"action": "useDefault"}}, world(a=SKIPPED)) is None


def test_in_the_output_a_skipped_step_gives_null() -> None:
    scope = world(a=SKIPPED, b=b"1")
    assert value({"x": {"$step": "a", "path": "p"}, "y": {"$step": "b"}}, scope, skip_is_null=True) == {"x": None, "y": 1}
    assert value({"$step": "a", "onSkip": {"action": "skip"}}, scope, skip_is_null=True) is None
    assert value({"$step": "a", "onSkip": {"action": "useDefault", "defaultValue": 3}}, scope, skip_is_null=True) == 3
    assert value({"$if": {"$step": "a"}, "then": 1, "else": 2}, scope, skip_is_null=True) == 2


# --- reading order --------------------------------------------------------------------------------------


def test_the_first_failure_in_reading_order_wins() -> None:
    scope = world(a=BOOM, b=BANG, c=SKIPPED)
    assert failure({"x": {"$step": "b"}, "y": {"$step": "a"}}, scope) is BANG
    assert failure([{"$input": "nope"}, {"$step": "a"}], scope).message == "Input path $.nope not found"
    assert failure([[1, [{"$step": "a"}]], {"$step": "b"}], scope) is BOOM


def test_a_failure_goes_before_a_skip_wherever_it_stands() -> None:
    scope = world(a=BOOM, c=SKIPPED, b=b"1")
    assert failure([{"$step": "c"}, {"$step": "a"}], scope) is BOOM
    assert failure([{"$step": "a"}, {"$step": "c"}], scope) is BOOM
    assert failure({"x": {"$if": {"$step": "b"}, "then": [{"$step": "c"}]}, "y": {"z": {"$step": "a"}}}, scope) is BOOM
    assert skips([{"$step": "c"}, {"$step": "b"}, {"$if": False, "then": {"$step": "a"}}], scope)


# --- static ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "static"),
    [
        ([{"$step": "b"}, {"x": {"$step": "a"}}], True),
        ({"$if": {"$input": "$"}, "then": 1}, True),
        ({"$if": {"$step": "a"}, "then": 1}, True),
        ({"$if": True, "then": {"$step": "a"}}, False),
        ({"$coalesce": [{"$step": "a"}, 1]}, True),
        ({"$coalesce": [1, {"$step": "a"}]}, False),
        ({"$coalesce": [{"$coalesce": [1, {"$step": "a"}]}]}, False),
        ({"$step": "a", "onSkip": {"action": "useDefault", "defaultValue": 1}}, True),
        ([{"$if": True, "then": {"$step": "a"}}, {"$step": "b"}], False),
    ],
)
def test_static_means_all_mentions_always(expression: Any, static: bool) -> None:
    node = plan(expression)
    assert node.static is static
    if static:
        assert node.blockers(world()) == list(node.mentions)


def test_rendering_too_early_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match="not ended"):
        plan({"$step": "a"}).render(world())
    with pytest.raises(AssertionError, match="how it is rendered"):
        Node().render(world())


# --- findings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "code", "path", "words"),
    [
        ({"$step": "a", "pth": 1}, "SM-2025", "$.pth", "does not belong to `$step`"),
        ({"$input": "x", "path": "y"}, "SM-2025", "$.path", "does not belong to `$input`"),
        ({"$literal": 1, "x": 2}, "SM-2025", "$.x", "does not belong"),
        ({"$if": 1, "then": 2, "elze": 3}, "SM-2025", "$.elze", "does not belong"),
        ({"$if": 1}, "SM-2025", "$", "no `then`"),
        ({"$coalesce": {"a": 1}}, "SM-2025", '$["$coalesce"]'.replace('["$coalesce"]', ".$coalesce"), "wants a list"),
        ({"$coalesce": None}, "SM-2025", "$.$coalesce", "wants a list"),
        ({"x": [{"$from": {"step": "a"}}]}, "SM-2025", "$.x[0]", "$from"),
        ({"$step": 5}, "SM-2025", "$.$step", "wants the id"),
        ({"$step": None}, "SM-2025", "$.$step", "wants the id"),
        ({"$step": "e"}, "SM-2023", "$.$step", "no step `e`"),
        ({"$step": "a", "path": "$.*"}, "SM-2024", "$.path", "character 3"),
        ({"$step": "a", "path": 3}, "SM-2024", "$.path", "must be a string"),
        ({"$input": ["x"]}, "SM-2024", "$.$input", "must be a string"),
        ({"$input": "$.."}, "SM-2024", "$.$input", "character 3"),
        ({"$variable": "$"}, "SM-2025", "$.$variable", "name of a variable"),
        ({"$variable": None}, "SM-2025", "$.$variable", "name of a variable"),
        ({"$variable": "$[0]"}, "SM-2025", "$.$variable", "name of a variable"),
        ({"$variable": "$.[", "default": 1}, "SM-2024", "$.$variable", "character"),
        ({"$step": "a", "onSkip": "skip"}, "SM-2025", "$.onSkip", "wants an object"),
        ({"$step": "a", "onSkip": {"action": "fail"}}, "SM-2025", "$.onSkip.action", "neither"),
        ({"$step": "a", "onSkip": {"action": "useDefault", "default": 1}}, "SM-2025", "$.onSkip.default", "does not belong"),
        ({"$step": "a", "onSkip": {"defaultValue": 1}}, "SM-2014", "$.onSkip.defaultValue", "no effect"),
        ({"x": {"$stpe": "a"}}, "SM-2026", "$.x.$stpe", "plain key"),
        ({"$env": "HOME"}, "SM-2026", "$.$env", "plain key"),
    ],
)
def test_wrong_forms_are_found_at_their_place(expression: Any, code: str, path: str, words: str) -> None:
    _, found = compiled(expression)
    assert [(item.code, item.path) for item in found] == [(code, path)]
    assert words in found[0].message


def test_error_wants_a_path() -> None:
    _, found = compiled({"$error": "$."}, has_error=True)
    assert [(item.code, item.path) for item in found] == [("SM-2024", "$.$error")]


def test_hints_name_what_was_meant() -> None:
    assert "`$step`" in compiled({"$stpe": "a"})[1][0].hint
    assert "env_var" in compiled({"$env": "X"})[1][0].hint
    assert "`path`" in compiled({"$step": "a", "pth": "x"})[1][0].hint
    assert "$input" in compiled({"$from": "x"})[1][0].hint


def test_forward_and_self_references() -> None:
    findings = Findings(lambda path: None)
    context = Context(STEPS, 1, findings)
    compile_expression([{"$step": "a"}, {"$step": "b"}, {"$step": "d"}], (), context)
    assert [(item.code, item.path, item.level) for item in findings.diagnostics.items] == [
        ("SM-2022", "$[1].$step", 1),
        ("SM-2021", "$[2].$step", 1),
    ]


def test_undeclared_variables_are_worth_a_warning_once_some_are_declared() -> None:
    assert compiled({"$variable": "regoin"})[1] == []
    _, found = compiled([{"$variable": "regoin"}, {"$variable": "region"}, {"$variable": "x", "default": 1}], variables={"region": None})
    assert [(item.code, item.path) for item in found] == [("SM-2027", "$[0].$variable")]
    assert "region" in found[0].hint


def test_the_parse_order_of_forms() -> None:
    for first, second in [
        ("$literal", "$if"),
        ("$if", "$coalesce"),
        ("$coalesce", "$step"),
        ("$step", "$input"),
        ("$input", "$variable"),
        ("$variable", "$error"),
    ]:
        _, found = compiled({second: "a", first: "a"}, has_error=True)
        assert any(item.path == f"$.{second}" and f"belong to `{first}`" in item.message for item in found)


@pytest.mark.parametrize("form", ["if", "coalesce", "list", "default"])
def test_nesting_at_the_depth_limit_compiles_and_renders(form: str) -> None:
    expression: Any = {"$step": "a"}
    for _ in range(49):
        expression = {
            "if": {"$if": [expression], "then": {"$step": "a"}},
            "coalesce": {"$coalesce": [expression]},
            "list": [[expression]],
            "default": {"$variable": "v", "default": [expression]},
        }[form]
    node = plan(expression)
    assert node.blockers(world()) == [0]
    assert node.render(world(a=b"1")).count(b"1") == 1
