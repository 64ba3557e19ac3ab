"""The path grammar."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_orchestrator.core.flow import paths
from stepmesh_orchestrator.core.flow.jsontext import dumps

NAME = st.text(st.characters(exclude_categories=["Cs"]))
PATH = st.lists(NAME | st.integers(0, 10**17), max_size=6).map(tuple)


@given(PATH)
def test_printing_and_parsing_round_trip(path: paths.Path) -> None:
    assert paths.parse(paths.show(path)) == path


def parsed(text: str) -> paths.Path | paths.PathError:
    try:
        return paths.parse(text)
    except paths.PathError as problem:
        return problem


@given(st.text() | st.text("$.[]'\"a0\\ *", max_size=8))
def test_parsing_ends_in_a_path_or_a_position(text: str) -> None:
    result = parsed(text)
    if isinstance(result, paths.PathError):
        assert 0 <= result.position <= len(text)
        assert f"character {result.position + 1}" in str(result)
    else:
        assert paths.parse(paths.show(result)) == result


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (None, ()),
        ("", ()),
        ("$", ()),
        ("name", ("name",)),
        ("a.b", ("a.b",)),
        (" $.a", (" $.a",)),
        ("$.a", ("a",)),
        ("$.a.b[0][12].c", ("a", "b", 0, 12, "c")),
        ('$["a.b"]', ("a.b",)),
        ("$['a.b']", ("a.b",)),
        ("$[ 'x' ][ 3 ]", ("x", 3)),
        ('$["q\\"\\\\\\u00e9\\n"]', ('q"\\é\n',)),
        ("$['it\\'s \"x\"']", ('it\'s "x"',)),
        ("$.content-type.@id.$ref.a/b", ("content-type", "@id", "$ref", "a/b")),
        ("$.ключ", ("ключ",)),
        ("$.0", ("0",)),
        ('$[""]', ("",)),
    ],
)
def test_what_is_understood(text: str | None, path: paths.Path) -> None:
    assert paths.parse(text) == path


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("$a", 1),
        ("$.", 2),
        ("$..a", 2),
        ("$.a..b", 4),
        ("$.*", 2),
        ("$[*]", 2),
        ("$[-1]", 2),
        ("$[1:2]", 2),
        ("$[?(@.a)]", 2),
        ("$[0", 2),
        ('$["a]', 2),
        ("$['a\"]", 2),
        ("$[a]", 2),
        ("$.a b", 3),
        ("$.a[0]b", 6),
        ("$[1234567890123456789]", 2),
        ('$["\\ud800"]', 2),
        ('$["\\x"]', 2),
        ("$['\\x']", 2),
        ("$$", 1),
    ],
)
def test_what_is_refused_shows_its_position(text: str, position: int) -> None:
    with pytest.raises(paths.PathError) as refused:
        paths.parse(text)
    assert refused.value.position == position


def test_a_long_bad_path_is_cut_in_the_message() -> None:
    with pytest.raises(paths.PathError) as refused:
        paths.parse("$" + "x" * 10_000)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), "$"),
        (("x",), "$.x"),
        (("list", 9), "$.list[9]"),
        (("a.b",), '$["a.b"]'),
        (("/s",), '$["/s"]'),
        (('"',), '$["\\""]'),
        (("",), '$[""]'),
    ],
)
def test_the_canonical_text(path: paths.Path, text: str) -> None:
    assert paths.show(path) == text


def test_apply() -> None:
    raw = b'{"a": {"b": [10, {"c d": 1e2}]}, "n": null}'
    assert paths.apply(raw, ()) is raw
    assert paths.apply(raw, ("a", "b", 0)) == b"10"
    assert paths.apply(raw, ("a", "b", 1, "c d")) == b"1e2"
    assert paths.apply(raw, ("n",)) == b"null"
    for missing in (("n", "x"), ("a", 0), ("a", "b", 2), ("a", "b", "c"), ("z",), ("a", "b", 0, "x")):
        assert paths.apply(raw, missing) is None


@given(
    st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAME, inner, max_size=4), max_leaves=12),
    st.data(),
)
def test_apply_agrees_with_plain_access(value: Any, data: st.DataObject) -> None:
    path: list[str | int] = []
    found = value
    while isinstance(found, dict | list) and found and data.draw(st.booleans()):
        part = data.draw(st.sampled_from(list(found) if isinstance(found, dict) else list(range(len(found)))))
        path.append(part)
        found = found[part]
    text = paths.apply(dumps(value), tuple(path))
    assert text is not None
    assert json.loads(text) == found
