"""Overrides: RFC 7396 and RFC 6902 by their own examples, the two forms, and refusals."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_orchestrator.core.flow.diagnostics import FlowInvalid
from stepmesh_orchestrator.core.flow.json_patch import PatchError, json_patch
from stepmesh_orchestrator.core.flow.jsontext import dumps
from stepmesh_orchestrator.core.flow.overrides import apply_overrides, merge_patch

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["a", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "~/"]), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy(target)
    assert merge_patch(target, patch) == result
    assert target == before


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 6902, appendix A
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo", "foo": "bar"}),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
            [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
            {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
        ),
        (
            {"foo": ["all", "grass", "cows", "eat"]},
            [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
            {"foo": ["all", "cows", "eat", "grass"]},
        ),
        (
            {"baz": "qux", "foo": ["a", 2, "c"]},
            [{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}],
            {"baz": "qux", "foo": ["a", 2, "c"]},
        ),
        ({"foo": "bar"}, [{"op": "add", "path": "/child", "value": {"grandchild": {}}}], {"foo": "bar", "child": {"grandchild": {}}}),
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}], {"foo": "bar", "baz": "qux"}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}], {"foo": ["bar", ["abc", "def"]]}),
        # and the rest of the specification
        ({"a": 1}, [{"op": "add", "path": "", "value": [1]}], [1]),
        ({"a": 1}, [{"op": "replace", "path": "", "value": 2}], 2),
        ({"a": 1}, [{"op": "remove", "path": ""}], None),
        ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/b/-", "value": 2}], {"a": [1], "b": [1, 2]}),
        ({"a": [1]}, [{"op": "copy", "from": "", "path": "/a/0"}], {"a": [{"a": [1]}, 1]}),
        ({"a": 1}, [{"op": "move", "from": "/a", "path": "/a"}], {"a": 1}),
        ({"a": [0, 1]}, [{"op": "replace", "path": "/a/1", "value": 5}], {"a": [0, 5]}),
        ({"": 1}, [{"op": "replace", "path": "/", "value": 2}], {"": 2}),
        ({"a": 1}, [{"op": "test", "path": "/a", "value": 1.0}], {"a": 1}),
        ({"a": 1}, [], {"a": 1}),
    ],
)
def test_json_patch(target: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy(target)
    assert json_patch(target, patch) == result
    assert target == before


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({}, "list of operations"),
        ([3], "operation 0: not an object"),
        ([{"op": "test", "path": "/a", "value": 1}, {"op": "add", "path": "/b"}], "operation 1: `add` has no `value`"),
        ([{"op": "spam", "path": "/a"}], "unknown operation"),
        ([{"path": "/a"}], "unknown operation"),
        ([{"op": "test", "path": "/a", "value": True}], "test failed"),
        ([{"op": "remove", "path": "/z"}], "nothing stands"),
        ([{"op": "replace", "path": "/z", "value": 1}], "nothing stands"),
        ([{"op": "remove", "path": "/l/2"}], "nothing stands"),
        ([{"op": "remove", "path": "/l/-"}], "nothing stands"),
        ([{"op": "remove", "path": "/l/01"}], "nothing stands"),
        ([{"op": "remove", "path": "/a/x"}], "nothing stands"),
        ([{"op": "add", "path": "/l/3", "value": 1}], "nothing can be added"),
        ([{"op": "add", "path": "/a/x", "value": 1}], "nothing can be added"),
        ([{"op": "add", "path": "/z/x", "value": 1}], "nothing stands"),
        ([{"op": "add", "path": "a", "value": 1}], "not a JSON pointer"),
        ([{"op": "add", "path": "/~2", "value": 1}], "not a JSON pointer"),
        ([{"op": "add", "path": 3, "value": 1}], "not a JSON pointer"),
        ([{"op": "copy", "path": "/b"}], "`from` is not"),
        ([{"op": "move", "from": "/l", "path": "/l/0"}], "into itself"),
    ],
)
def test_a_patch_that_does_not_apply(patch: Any, words: str) -> None:
    with pytest.raises(PatchError, match=words.replace("`", ".")):
        json_patch({"a": 1, "l": [1, 2]}, patch)


def test_copying_again_and_again_is_bounded() -> None:
    doubling = [{"op": "copy", "from": "", "path": f"/x{number}"} for number in range(40)]
    with pytest.raises(PatchError, match="copies more than"):
        json_patch({"a": 1}, doubling)
    assert json_patch({"a": 1}, doubling[:10])["x9"]["x8"]["a"] == 1


def test_nesting_by_pointer_is_bounded() -> None:
    deep = [{"op": "add", "path": "/a" * (level + 1), "value": {}} for level in range(1_500)]
    with pytest.raises(PatchError, match="nested too deeply"):
        json_patch({}, [*deep, {"op": "copy", "from": "/a", "path": "/b"}])


@given(
    JSON,
    st.lists(
        st.fixed_dictionaries(
            {
                "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]),
                "path": st.sampled_from(["", "/a", "/b", "/a/0", "/a/-", "/a/b", "/~0~1"]),
            },
            optional={"value": JSON, "from": st.sampled_from(["", "/a", "/a/0", "/b"])},
        ),
        max_size=4,
    ),
)
def test_any_patch_applies_or_says_why_not_and_changes_nothing_given(target: Any, patch: list[Any]) -> None:
    before = copy.deepcopy((target, patch))
    try:
        result = dumps(json_patch(target, patch))
    except PatchError as problem:
        result = str(problem).encode()
    assert result
    assert (target, patch) == before


# --- overrides of a flow --------------------------------------------------------------------------------

FLOW = {"name": "n", "steps": [{"id": "a", "component": "/p/c", "input": {"k": 1, "l": 2}}, {"id": "steps", "component": "/p/c"}]}


def overridden(text: str) -> Any:
    before = copy.deepcopy(FLOW)
    result = apply_overrides(FLOW, text.encode())
    assert before == FLOW
    return result["steps"]


def test_the_long_and_the_short_form() -> None:
    patched = {"id": "a", "component": "/p/c", "input": {"k": 1, "l": 3}}
    assert overridden('{"steps": {"a": {"$type": "merge_patch", "value": {"input": {"l": 3}}}}}')[0] == patched
    assert overridden('{"a": {"value": {"input": {"l": 3}}}}')[0] == patched
    assert overridden('{"a": {"$type": null, "value": {"input": {"l": 3}}}}')[0] == patched
    assert overridden('{"a": {"$type": "json_patch", "value": [{"op": "replace", "path": "/input/l", "value": 3}]}}')[0] == patched
    assert overridden('{"a": {"value": {"pool": "x"}}, "steps": {"value": {"pool": "y"}}}')[1]["pool"] == "y"
    assert overridden("{}") == overridden('{"steps": {}}') == FLOW["steps"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ('{"steps": {"aa": {"value": {}}}}', "no step `aa`"),
        ('{"a": 3}', "not understood"),
        ('{"a": {"value": {}, "tpye": 1}}', "not understood"),
        ('{"a": {"$type": "merge_patch"}}', "not understood"),
        ('{"a": {"$type": "xml", "value": {}}}', "unknown type"),
        ('{"a": {"value": 3}}', "leaves no step"),
        ('{"a": {"$type": "json_patch", "value": [{"op": "remove", "path": ""}]}}', "leaves no step"),
        ('{"a": {"$type": "json_patch", "value": [{"op": "remove", "path": "/z"}]}}', "does not apply"),
        ('{"a": {"value": {"x": ' + "[" * 200 + "]" * 200 + "}}}", "100 deep"),
    ],
)
def test_refused_overrides(text: str, words: str) -> None:
    with pytest.raises(FlowInvalid) as raised:
        overridden(text)
    assert words in raised.value.message
    assert raised.value.code in ("SM-2040", "SM-2007")
    assert raised.value.diagnostics.failed


def test_an_unknown_step_is_answered_with_the_nearest() -> None:
    with pytest.raises(FlowInvalid) as raised:
        overridden('{"stepz": {"value": {}}}')
    assert raised.value.hint == "did you mean `steps`?"
    with pytest.raises(FlowInvalid, match="no step"):
        apply_overrides([], b'{"a": {"value": {}}}')
    with pytest.raises(FlowInvalid, match="no step"):
        apply_overrides({"steps": [3, {"id": 5}]}, b'{"a": {"value": {}}}')
