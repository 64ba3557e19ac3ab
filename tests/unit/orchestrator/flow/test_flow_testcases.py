"""Test cases in flows: reading and partial comparison."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_orchestrator.core.flow.compile import compile_flow
from stepmesh_orchestrator.core.flow.document import load
from stepmesh_orchestrator.core.flow.testcases import cases_of, compare

FLOW = """
name: n
description: d
test:
  configFile: other.yml
  config: {plugins: {}}
  cases:
    - {name: one, description: first, input: {a: 1}, output: {outcome: success, result: 2}}
    - {name: two, input: null, output: {outcome: failed, error: {code: TIMEOUT, message: late}}}
    - {name: three, variables: {v: 1}, overrides: {a: {value: {}}}}
"""


def test_reading_cases() -> None:
    tests = cases_of(load(FLOW))
    assert (tests.config_file, tests.config) == ("other.yml", {"plugins": {}})
    one, two, three = tests.cases
    assert (one.name, one.description, one.input, one.expected) == ("one", "first", {"a": 1}, {"outcome": "success", "result": 2})
    assert (two.input, two.expected) == (None, {"outcome": "failed", "error": {"code": "TIMEOUT", "message": "late"}})
    assert (three.expected, three.path) == (None, ("test", "cases", 2))
    assert (three.variables, three.overrides) == ({"v": 1}, {"a": {"value": {}}})
    assert (one.variables, one.overrides) == (None, None)
    assert load(FLOW).position(three.path) == (10, 7)
    assert cases_of(load("steps: []")).cases == ()
    assert compile_flow(load(FLOW))[1].items == []


@pytest.mark.parametrize(
    ("case", "code", "path"),
    [
        ("{input: 1}", "SM-2012", "$.test.cases[0]"),
        ("{name: x, outptu: {}}", "SM-2011", "$.test.cases[0].outptu"),
        ("{name: x, output: 3}", "SM-2010", "$.test.cases[0].output"),
        ("{name: x, output: {result: 3}}", "SM-2050", "$.test.cases[0].output"),
        ("{name: x, output: {outcome: succes, result: 3}}", "SM-2013", "$.test.cases[0].output.outcome"),
        ("{name: x, output: {outcome: success, error: {}}}", "SM-2050", "$.test.cases[0].output.error"),
        ("{name: x, output: {outcome: failed, result: 1}}", "SM-2050", "$.test.cases[0].output.result"),
        ("[1]", "SM-2010", "$.test.cases[0]"),
        ("null", "SM-2010", "$.test.cases[0]"),
    ],
)
def test_wrong_cases_are_found(case: str, code: str, path: str) -> None:
    _, diagnostics = compile_flow(load(f"name: n\ndescription: d\ntest:\n  cases:\n  - {case}"))
    assert [(item.code, item.path) for item in diagnostics.items] == [(code, path)]


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": {"b": [1, {"c": None}]}}, {"z": 0, "a": {"b": [1, {"c": None, "d": 1}], "e": 1}}),
        ({}, {"a": 1}),
        ([], []),
        (1.0, 1.0),
        ("run 018f0000-0000-7000-8000-000000000001 failed", "run 018f0000-0000-7000-9000-0000000000ff failed"),
    ],
)
def test_what_matches(expected: Any, actual: Any) -> None:
    assert compare(expected, actual) == []


@pytest.mark.parametrize(
    ("expected", "actual", "lines"),
    [
        (1, 2, ["$: got 2, expected 1"]),
        (1, 1.0, ["$: got 1.0, expected 1 (a number, not an integer)"]),
        (1, True, ["$: got true, expected 1 (a boolean, not an integer)"]),
        (9007199254740993, 9007199254740992, ["$: got 9007199254740992, expected 9007199254740993"]),
        (None, {}, ["$: got {}, expected null (an object, not null)"]),
        ({"a": None}, {}, ["$.a: missing, expected null"]),
        ({"a.b": [1, 2]}, {"a.b": [1]}, ['$["a.b"]: 1 elements, expected 2: got [1]']),
        ([1, {"x": "é"}, 3], [1, {"x": "e"}, 4], ['$[1].x: got "e", expected "é"', "$[2]: got 4, expected 3"]),
        ({"a": []}, {"a": {}}, ["$.a: got {}, expected [] (an object, not a list)"]),
    ],
)
def test_what_differs(expected: Any, actual: Any, lines: list[str]) -> None:
    assert compare(expected, actual) == lines


def test_the_list_of_differences_is_short() -> None:
    assert len(compare([0] * 1_000, [1] * 1_000)) == 50
    (line,) = compare("x" * 1_000, "y" * 1_000)
    assert len(line) < 500


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=10,
    )
)
def test_everything_matches_itself(value: Any) -> None:
    assert compare(value, value) == []
