"""Loading documents from outside: YAML 1.2 core, strict JSON, places, limits, and everything hostile."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from stepmesh_orchestrator.core.flow.diagnostics import Diagnostic, FlowInvalid
from stepmesh_orchestrator.core.flow.document import Document, from_value, load
from stepmesh_orchestrator.core.flow.jsontext import dumps
from stepmesh_orchestrator.core.flow.limits import LIMITS, Limits

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LEAF = st.none() | st.booleans() | st.integers(-(10**60), 10**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5), max_leaves=25)


def refused(text: bytes | str, limits: Limits = LIMITS) -> Diagnostic:
    with pytest.raises(FlowInvalid) as raised:
        load(text, name="f.yaml", limits=limits)
    (found,) = raised.value.diagnostics.items
    assert raised.value.code == found.code
    assert raised.value.message.startswith(f"f.yaml:{found.line}:{found.column}: ")
    return found


# --- values ---------------------------------------------------------------------------------------------


@given(JSON)
def test_json_text_loads_exactly(value: Any) -> None:
    assert repr(load(dumps(value)).value) == repr(value)
    assert repr(load(json.dumps(value, indent=1)).value) == repr(value)


class _Quoting(yaml.CSafeDumper):
    """Quotes every number-like text: PyYAML itself quotes by YAML 1.1, where for example `0E0` is no number."""


_Quoting.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if text[:1] in tuple("+-.0123456789") else None),
)


@given(JSON)
@example({"0E0": None})
def test_yaml_text_loads_exactly(value: Any) -> None:
    text = yaml.dump(value, Dumper=_Quoting, allow_unicode=False, sort_keys=False)
    assume("!!" not in text)
    assert load(text).value == value


@given(JSON)
def test_a_value_in_memory_is_held_to_the_same_rules(value: Any) -> None:
    document = from_value(value)
    assert repr(document.value) == repr(value)
    assert document.position(()) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("Off", "Off"), ("y", "y"),
        ("true", True), ("True", True), ("TRUE", True), ("tRue", "tRue"), ("false", False), ("False", False),
        ("null", None), ("Null", None), ("~", None), ("", None), ("nUll", "nUll"),
        ("010", 10), ("0o10", 8), ("0x1F", 31), ("0b1", "0b1"), ("-7", -7), ("+7", 7), ("1_000", "1_000"), ("0x", "0x"), ("-0x1", "-0x1"),
        ("12345678901234567890123", 12345678901234567890123),
        ("1.0", 1.0), ("1.", 1.0), (".5", 0.5), ("-.5e-3", -0.0005), ("1e3", 1000.0), ("1:30", "1:30"), ("12:30:45", "12:30:45"),
        ("2001-12-14", "2001-12-14"), ("=", "="), ("1.2.3", "1.2.3"), ("-", [None]), ("'1'", "1"),
        ('"~"', "~"), ("! 1", "1"), ("!!str 1", "1"),
        ("|\n a\n b\n", "a\nb\n"), (">\n a\n b\n", "a b\n"), ('"\\u00e9\\U0001F600"', "é😀"),
    ],
)  # fmt: skip
def test_scalars_follow_the_yaml_1_2_core_schema(text: str, value: Any) -> None:
    loaded = load(f"a: {text}" if text != "-" else "a:\n  -").value["a"]
    assert repr(loaded) == repr(value)


def test_key_order_and_duplicate_values_are_kept() -> None:
    assert list(load("z: 1\na: 2\nm: 3").value) == ["z", "a", "m"]


def test_anchors_and_aliases() -> None:
    document = load("base: &b {retries: 3}\nname: &n x\nuse: [*b, *b, *n]\nagain: &b 5\nlast: *b")
    assert document.value["use"] == [{"retries": 3}, {"retries": 3}, "x"]
    assert document.value["last"] == 5
    assert load("&k name: 1\nuse: *k").value == {"name": 1, "use": "name"}


def test_an_empty_document_is_null() -> None:
    assert load("").value is None
    assert load(b"# nothing\n").value is None
    assert load("\ufeff{}").value == {}


def test_flow_style_yaml_that_is_not_json_is_yaml() -> None:
    assert load("{a: 1, b: [x, y,],}").value == {"a": 1, "b": ["x", "y"]}


# --- places ---------------------------------------------------------------------------------------------

PLACED = "name: é😀\nsteps:\n  - id: a\n    input:\n      x: [1,\n        {y: 2}]\n  - *q\n".replace("  - *q\n", "")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((), (1, 1)),
        (("name",), (1, 1)),
        (("steps",), (2, 1)),
        (("steps", 0), (3, 5)),
        (("steps", 0, "id"), (3, 5)),
        (("steps", 0, "input", "x"), (5, 7)),
        (("steps", 0, "input", "x", 0), (5, 11)),
        (("steps", 0, "input", "x", 1, "y"), (6, 10)),
        (("steps", 0, "absent", "deeper"), (3, 5)),
        (("steps", 7), (2, 1)),
        (("name", "inside"), (1, 1)),
    ],
)
def test_places_in_yaml(path: tuple[str | int, ...], place: tuple[int, int]) -> None:
    assert load(PLACED).position(path) == place


def test_places_in_json() -> None:
    document = load('{\n  "a": [1,\n    {"b": null}],\n "c": "x"}')
    assert document.position(("a",)) == (2, 3)
    assert document.position(("a", 1)) == (3, 5)
    assert document.position(("a", 1, "b")) == (3, 6)
    assert document.position(("c",)) == (4, 2)


def test_the_place_inside_an_alias_is_where_it_is_written() -> None:
    document = load("a: &x\n  b: 1\nc: *x")
    assert document.position(("c",)) == (3, 1)
    assert document.position(("c", "b")) == (2, 3)


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "line", "column", "words"),
    [
        ("a: [1,", "SM-2001", 1, 7, "not YAML"),
        ("a:\n\t- b", "SM-2001", 2, 1, "not YAML"),
        ("a: 1\n b: 2", "SM-2001", 2, 3, "not YAML"),
        ("a: 'x", "SM-2001", 1, 6, "not YAML"),
        ("a: &x [*x]", "SM-2001", 1, 8, "stands in"),
        ("a: *x", "SM-2001", 1, 4, "no anchor"),
        ('{"a" 1}', "SM-2001", 1, 6, "expected :"),
        ('{"a":1} x', "SM-2001", 1, 9, "found 'x'"),
        ('{"a":1', "SM-2001", 1, 7, "end of the text"),
        ('{"a":}x', "SM-2001", 1, 6, "expected value"),
        ('["a"}', "SM-2001", 1, 5, "expected , or ]"),
        ('"\\ud800"', "SM-2002", 1, 1, "surrogate"),
        ('{"a":"\\udc00"}', "SM-2002", 1, 6, "surrogate"),
        ('a: "\\ud800"', "SM-2001", 1, 7, "escape"),
        (b"a: b\nc: \xff", "SM-2002", 2, 4, "UTF-8"),
        (b"\xff\xfea\0", "SM-2002", 1, 1, "UTF-8"),
        ("a\ud800", "SM-2002", 1, 2, "surrogate"),
        ("a: b\0", "SM-2002", 1, 5, "U+0000"),
        ('{"a": "\0"}', "SM-2002", 1, 8, "U+0000"),
        ("a: \x07", "SM-2002", 1, 4, "U+0007"),
        ("a: 1\nb: 2\na: 3", "SM-2003", 3, 1, "twice"),
        ('{"a": 1, "a": 1}', "SM-2003", 1, 10, "twice"),
        ('{"a": 1, "\\u0061": 1}', "SM-2003", 1, 10, "twice"),
        ("1: x", "SM-2004", 1, 1, "not a string"),
        ("true: x", "SM-2004", 1, 1, "not a string"),
        ("~: x", "SM-2004", 1, 1, "not a string"),
        ("? [a]\n: x", "SM-2004", 1, 3, "plain string"),
        ("a: &k b\n*k : x", "SM-2004", 2, 1, "plain string"),
        ("!!python/object/apply:os.system [id]", "SM-2005", 1, 1, "tag"),
        ("a: !!python/name:os.system x", "SM-2005", 1, 4, "tag"),
        ("a: !!binary aGk=", "SM-2005", 1, 4, "tag"),
        ("a: !!set {x}", "SM-2005", 1, 4, "tag"),
        ("a: !foo {}", "SM-2005", 1, 4, "tag"),
        ("a: !!int '3'", "SM-2005", 1, 4, "tag"),
        ("b: &b {x: 1}\na:\n  <<: *b", "SM-2005", 3, 3, "merge"),
        ("a: 1\n---\nb: 2", "SM-2005", 2, 1, "second document"),
        ("a: .inf", "SM-2006", 1, 4, "not a JSON number"),
        ("a: -.INF", "SM-2006", 1, 4, "not a JSON number"),
        ("a: .nan", "SM-2006", 1, 4, "not a JSON number"),
        ("a: 1e999", "SM-2006", 1, 4, "range of a double"),
        ('{"a": NaN}', "SM-2006", 1, 7, "NaN"),
        ('{"a": -Infinity}', "SM-2006", 1, 7, "-Infinity"),
        ("[-1e999]", "SM-2006", 1, 2, "range of a double"),
        ("[" * 101 + "]" * 101, "SM-2007", 1, 101, "100 deep"),
    ],
)
def test_refusals_name_code_and_place(text: bytes | str, code: str, line: int, column: int, words: str) -> None:
    found = refused(text)
    assert (found.code, found.line, found.column) == (code, line, column)
    assert words in found.message


def test_a_tab_is_called_a_tab() -> None:
    assert "tabs" in refused("a:\n\t- b").hint
    assert "indentation" in refused("a: 1\n b: 2").hint


def test_nothing_is_built_from_a_tag(tmp_path: Any) -> None:
    target = tmp_path / "made"
    refused(f"!!python/object/apply:pathlib.Path.touch [!!python/object:pathlib.Path ['{target}']]")
    assert not target.exists()


# --- limits: one under, one over ------------------------------------------------------------------------

SMALL = Limits(document_bytes=100, expanded_characters=50, nodes=20, depth=4, integer_digits=10)


def test_document_size() -> None:
    text = "a: é".encode()
    text += b" " * (100 - len(text))
    assert load(text, limits=SMALL).value == {"a": "é"}
    assert load(text.decode(), limits=SMALL).value == {"a": "é"}
    assert refused(text + b" ", SMALL).code == "SM-2007"
    assert refused(text.decode() + " ", SMALL).code == "SM-2007"


def test_the_usual_document_size() -> None:
    text = b"# " + b"x" * (LIMITS.document_bytes - 2)
    assert load(text).value is None
    assert refused(text + b"x").code == "SM-2007"


@pytest.mark.parametrize("text", ["[[[[1]]]]", "a:\n  b:\n    - - 1", '{"a":{"b":[[1]]}}', "x: &x {y: [1]}\nz: [*x]"])
def test_depth(text: str) -> None:
    depth = 3 if "&" in text else 4
    assert load(text, limits=replace(SMALL, depth=4)).value is not None
    assert refused(text, replace(SMALL, depth=depth - (0 if "&" in text else 1))).code == "SM-2007"


@pytest.mark.parametrize("bracket", ["[", '{"a":', "{a: ", "- ", "? "])
def test_bottomless_nesting_is_read_no_further_than_the_limit(bracket: str) -> None:
    assert refused(bracket * 500_000).code in ("SM-2007", "SM-2004")


def test_nodes() -> None:
    assert len(load("[" + "1," * 18 + "1]", limits=SMALL).value) == 19
    assert refused("[" + "1," * 19 + "1]", SMALL).code == "SM-2007"
    assert refused("- 1\n" * 20, SMALL).code == "SM-2007"


def test_nodes_count_keys_and_what_aliases_expand_to() -> None:
    text = "a: &a [1, 2, 3, 4]\nb: [*a, *a]\nc: "  # 1 + 6 + (2 + 10) + 2 = 21, the last key's value included
    assert load("a: &a [1, 2, 3, 4]\nb: [*a, *a]", limits=replace(SMALL, nodes=19)).value["b"][1] == [1, 2, 3, 4]
    assert refused("a: &a [1, 2, 3, 4]\nb: [*a, *a]", replace(SMALL, nodes=18)).code == "SM-2007"
    assert refused(text, SMALL).code == "SM-2007"


def test_expanded_characters() -> None:
    assert load(f"a: {'x' * 49}", limits=SMALL).value["a"] == "x" * 49
    assert refused(f"a: {'x' * 50}", SMALL).code == "SM-2007"
    assert refused(f"a: &a {'x' * 16}\nb: [*a, *a]\nc: ", SMALL).code == "SM-2007"


@pytest.mark.parametrize("form", ["{}", "-{}", "[{}]", "a: {}", "[-{}]"])
def test_integer_digits(form: str) -> None:
    assert load(form.format("9" * 10), limits=SMALL).value is not None
    assert refused(form.format("1" + "0" * 10), SMALL).code == "SM-2006"


def test_the_usual_integer_digits() -> None:
    largest = "9" * 4_300
    assert dumps(load(f"a: {largest}").value) == f'{{"a":{largest}}}'.encode()
    assert dumps(load(f"a: {hex(int(largest))}").value) == f'{{"a":{largest}}}'.encode()
    assert from_value([int(largest)]).value == [int(largest)]
    for text in (f"a: {largest}9", f'{{"a": {largest}9}}', f"a: {hex(int(largest) + 1)}", "a: " + "1" * 10**5, "a: 0x" + "f" * 10**6):
        assert refused(text).code == "SM-2006"
    with pytest.raises(FlowInvalid, match="digits"):
        from_value([-int(largest) - 1])


# --- S4: bombs ------------------------------------------------------------------------------------------


def laughs(levels: int, width: int, leaf: str) -> str:
    lines = [f"a0: &a0 {leaf}"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels + 1)]
    return "\n".join(lines)


BOMBS = {
    "9^10 aliases": laughs(10, 9, "[x, x, x, x, x, x, x, x, x]"),
    "9^10 aliases of objects": laughs(10, 9, "{k: v}"),
    "a large scalar again and again": laughs(3, 40, "y" * 10_000),
    "quadratic aliases": "a: &a [" + "1, " * 2_000 + "1]\nb: [" + "*a, " * 2_000 + "*a]",
    "deep through aliases": "\n".join(["a0: &a0 [1]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 200)]),
    "deep brackets": "[" * 100_000,
    "deep block": "".join(" " * n + "- \n" for n in range(300)),
    "self": "a: &a {b: *a}",
    "merge recursion": "a: &a\n  <<: *a",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_one_typed_error_and_is_never_built(name: str) -> None:
    text = BOMBS[name]
    tracemalloc.start()
    try:
        found = refused(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.code in ("SM-2001", "SM-2005", "SM-2007")
    assert peak < 50 * 1024 * 1024


def test_ten_thousand_aliases_within_the_limits_share_one_value() -> None:
    document = load("a: &a {k: [1, 2]}\nb: [" + "*a, " * 9_999 + "*a]")
    assert len(document.value["b"]) == 10_000
    assert document.value["b"][0] is document.value["b"][9_999]


# --- values from memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "code", "path"),
    [
        ({"a": {1: 2}}, "SM-2004", "$.a"),
        ({"a": [0, float("nan")]}, "SM-2006", "$.a[1]"),
        ([float("-inf")], "SM-2006", "$[0]"),
        ({"a": {1, 2}}, "SM-2010", "$.a"),
        ({"a": (1, 2)}, "SM-2010", "$.a"),
        ({"a": b"x"}, "SM-2010", "$.a"),
        ({"a": "\ud800"}, "SM-2002", "$.a"),
        ({"\ud800": 1}, "SM-2002", "$"),
    ],
)
def test_what_is_not_json_in_memory(value: Any, code: str, path: str) -> None:
    with pytest.raises(FlowInvalid) as raised:
        from_value(value)
    (found,) = raised.value.diagnostics.items
    assert (found.code, found.path, found.line) == (code, path, None)


def test_depth_in_memory() -> None:
    value: Any = 1
    for _ in range(100):
        value = [value]
    assert from_value(value).value == value
    with pytest.raises(FlowInvalid, match="100 deep"):
        from_value([value])
    for _ in range(10_000):
        value = [value]
    with pytest.raises(FlowInvalid, match="100 deep"):
        from_value(value)


def test_a_document_does_not_share_containers_with_the_value_it_was_made_of() -> None:
    value: dict[str, Any] = {"a": {"b": [1]}}
    document = from_value(value)
    value["a"]["b"].append(2)
    assert document.value == {"a": {"b": [1]}}


# --- anything at all ------------------------------------------------------------------------------------

SEED_TEXTS = [
    'name: x\nsteps:\n  - {id: a, component: /b/c, input: {$step: x, path: "$.a[0]"}}\noutput: &o [*o, 0x1F, 1e3]\n',
    '{"name": "x", "steps": [{"id": "a", "input": {"$if": [1, 2.5e3, null, true]}}]}',
]


def attempt(text: bytes | str) -> Document | FlowInvalid:
    try:
        return load(text)
    except FlowInvalid as problem:
        return problem


@given(st.binary() | st.text() | st.text("{}[]:,-&*!|>'\"% #\n\t a1.\\u0", max_size=60))
def test_any_text_is_a_document_or_a_typed_error(text: bytes | str) -> None:
    result = attempt(text)
    assert isinstance(result, FlowInvalid) or dumps(result.value) is not None


@settings(max_examples=300)
@given(st.sampled_from(SEED_TEXTS), st.data())
def test_a_damaged_flow_is_a_document_or_a_typed_error(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 6))
        text = text[:at] + data.draw(st.text("{}[]:,-&*!'\"\n\t 0e.x$\\", max_size=4)) + text[at + cut :]
    result = attempt(text)
    if isinstance(result, Document):
        assert repr(load(dumps(result.value)).value) == repr(result.value)
    else:
        assert result.code.startswith("SM-200")
