"""Expectations are rewritten in place, to the byte; what cannot be is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_cli.errors import CommandError
from stepmesh_cli.expectations import update_file, updated
from stepmesh_orchestrator.core.flow.document import load

FLOW = """# top
name: "quoted"   # name
test:
  cases:
    - name: block   # one
      input: {x: 1}
      output:
        outcome: success  # gone
        result:
          - |
            text

    # between
    - {name: flow, input: 2, output: {outcome: success}} # tail
    - name: absent
      input: null
    - {"name": "absent too", "input": [1, 2]}
    - name: flow in block
      output: {outcome: success}
      input: 'last'
# end
"""
CASES = 5
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs", "Cc"])), inner, max_size=3),
    max_leaves=8,
)


def place(index: int) -> tuple[str, str, int]:
    return ("test", "cases", index)


@pytest.mark.parametrize("index", range(CASES))
def test_only_the_named_case_changes(index: int) -> None:
    result = {"outcome": "success", "result": {"a": [1, None, "yes", "0x1", 1e20, 10**30], "text": "two\nlines\n", "empty": {}}}
    text = updated(FLOW, {place(index): result})
    wanted = load(FLOW).value
    wanted["test"]["cases"][index]["output"] = result
    assert load(text).value == wanted
    for kept in ("# top", '"quoted"   # name', "# one", "    # between\n", "} # tail", "input: 'last'", "# end"):
        assert kept in text


def test_all_at_once() -> None:
    results = {place(index): {"outcome": "success", "result": index} for index in range(CASES)}
    assert [case["output"]["result"] for case in load(updated(FLOW, results)).value["test"]["cases"]] == list(range(CASES))


@given(json_values, st.integers(0, CASES - 1))
def test_any_value_reads_back(value: Any, index: int) -> None:
    text = updated(FLOW, {place(index): {"outcome": "success", "result": value}})
    assert load(text).value["test"]["cases"][index]["output"]["result"] == value


def test_json_stays_json(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text('{"test": {"cases": [\n  {"name": "a", "output": {"outcome": "failed"}},\n  {"name": "b"}\n]}}')
    update_file(path, {place(0): {"outcome": "success", "result": "é"}, place(1): {"outcome": "success", "result": None}})
    assert path.read_text() == (
        '{"test": {"cases": [\n  {"name": "a", "output": {"outcome": "success", "result": "é"}},\n'
        '  {"name": "b", "output": {"outcome": "success", "result": null}}\n]}}'
    )


def test_what_is_shared_by_an_anchor_is_refused_and_left(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    text = "test:\n  cases:\n    - {name: a, output: &o {outcome: success, result: 1}}\n    - {name: b, output: *o}\n"
    path.write_text(text)
    with pytest.raises(CommandError, match="anchors"):
        update_file(path, {place(1): {"outcome": "success", "result": 2}})
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_the_files_mode_stays(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(FLOW)
    path.chmod(0o640)
    update_file(path, {place(0): {"outcome": "success"}})
    assert path.stat().st_mode & 0o777 == 0o640
