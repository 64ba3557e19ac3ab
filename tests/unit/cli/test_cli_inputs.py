"""Inputs, variables and overrides as a person gives them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepmesh_cli.errors import BadInput
from stepmesh_cli.inputs import InputSource, from_environment, parse_value, read_inputs, read_object
from stepmesh_cli.main import STDIN

BIG = 12345678901234567890123456789


def variable(env_var: str | None, type_: str | None = None) -> Any:
    return SimpleNamespace(env_var=env_var, schema={} if type_ is None else {"type": type_})


def test_nothing_given_is_one_null_input() -> None:
    assert read_inputs(InputSource()) == [None]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f'{{"n": {BIG}}}', {"n": BIG}),
        ("n: 1\nlist: [a, 2.50]", {"n": 1, "list": ["a", 2.5]}),
        ('"text"', "text"),
        ("[1,2]", [1, 2]),
        ("null", None),
    ],
)
def test_a_file_is_json_or_yaml_by_its_content(tmp_path: Path, text: str, value: Any) -> None:
    file = tmp_path / "input.txt"
    file.write_text(text)
    assert read_inputs(InputSource(file=str(file))) == [value]
    assert read_inputs(InputSource(json=text)) == [value]
    assert read_inputs(InputSource(yaml=text)) == [value]


def test_a_batch_is_one_input_per_line_blank_lines_left_out(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"n": 1}\n\n{"n": 2}\n"three"')
    assert read_inputs(InputSource(lines=str(file))) == [{"n": 1}, {"n": 2}, "three"]


def test_an_empty_batch_has_no_items(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n")
    assert read_inputs(InputSource(lines=str(tmp_path / "in.jsonl"))) == []


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"n": 1}\n{"n":\n')
    with pytest.raises(BadInput, match=r"in\.jsonl line 2:1:"):
        read_inputs(InputSource(lines=str(file)))


def test_dash_is_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"n": 7}')))
    assert read_inputs(InputSource(file=STDIN)) == [{"n": 7}]


def test_two_ways_exclude_each_other() -> None:
    with pytest.raises(BadInput, match="--input-json and --input-yaml exclude each other"):
        read_inputs(InputSource(json="1", yaml="1"))


@pytest.mark.parametrize("text", ['{"n": ', '{"n": NaN}', '{"a": 1, "a": 2}', '"\\ud800"', "{a: *b}", "\x00"])
def test_what_is_no_value_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(BadInput, match=r"given:1:\d+") as caught:
        parse_value(text.encode(), "given")
    assert caught.value.code == "SM-0108"
    assert caught.value.hint


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(BadInput, match="UTF-8"):
        parse_value(b'"\xff"', "given")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.json: No such file"):
        read_inputs(InputSource(file=str(tmp_path / "nowhere.json")))


def test_a_folder_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="directory"):
        read_inputs(InputSource(file=str(tmp_path)))


def test_an_object_comes_inline_or_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "variables.yaml"
    file.write_text("a: 1\n")
    assert read_object(None, "--variables") is None
    assert read_object('{"a": 1}', "--variables") == {"a": 1}
    assert read_object(str(file), "--variables") == {"a": 1}


@pytest.mark.parametrize(("text", "kind"), [("[1]", "a list"), ('"x"', "text")])
def test_only_an_object_will_do(text: str, kind: str) -> None:
    with pytest.raises(BadInput, match=f"--overrides wants an object, not {kind}"):
        read_object(text, "--overrides")


def test_variables_come_from_the_environment_unless_given() -> None:
    declared = {"key": variable("KEY"), "count": variable("COUNT", "integer"), "other": variable(None), "absent": variable("ABSENT")}
    environment = {"KEY": "12", "COUNT": "12"}
    assert from_environment(declared, None, environment) == {"key": "12", "count": 12}
    assert from_environment(declared, {"key": "given"}, environment) == {"key": "given", "count": 12}


def test_no_variables_at_all_stay_none() -> None:
    assert from_environment({"key": variable("KEY")}, None, {}) is None
    assert from_environment({}, {}, {}) == {}


def test_a_bad_value_in_the_environment_is_refused_without_showing_it() -> None:
    with pytest.raises(BadInput, match="COUNT is neither JSON nor YAML") as caught:
        from_environment({"count": variable("COUNT", "integer")}, None, {"COUNT": "[s3cret"})
    assert "s3cret" not in str(caught.value)
