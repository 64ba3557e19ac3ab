"""`stepmesh validate`: findings as a compiler shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepmesh_cli import exits
from stepmesh_cli.main import main

GOOD = "name: f\ndescription: d\noutput: 1\n"
BAD = """name: f
description: d
steps:
  - {id: ä, component: /m/x, onEror: 1, input: {$step: b}}
  - id: b
    component: nope
output: {$step: ä}
"""


def validated(tmp_path: Path, text: str | bytes, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    path = tmp_path / "flow.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    code = main(["validate", str(path), *flags])
    return code, capsys.readouterr().out.replace(str(tmp_path) + "/", "")


def test_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validated(tmp_path, GOOD, capsys) == (exits.OK, "flow.yaml: good\n")


def test_place_line_caret_code_message_and_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = validated(tmp_path, BAD, capsys)
    assert code == exits.FAILED
    lines = told.splitlines()
    assert lines[0] == "flow.yaml:4:30: warning SM-2011 `onEror` is not a key of a step"
    assert lines[1] == "  4 |   - {id: ä, component: /m/x, onEror: 1, input: {$step: b}}"
    assert lines[1][lines[2].index("^")] == "o"
    assert lines[3] == "  → did you mean `onError`?"
    assert "flow.yaml:4:49: fatal SM-2021" in told
    assert "flow.yaml:6:5: error SM-2013" in told
    assert lines[-1] == "flow.yaml: 2 errors, 1 warning"


def test_warnings_are_errors_under_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "name: f\noutput: 1\n"
    assert validated(tmp_path, text, capsys)[0] == exits.OK
    code, told = validated(tmp_path, text, capsys, "--strict")
    assert code == exits.FAILED
    assert "error SM-2015" in told


def test_several_files_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    assert main(["validate", str(tmp_path / "good.yaml"), str(tmp_path / "bad.yaml"), "--json"]) == exits.FAILED
    good, bad = json.loads(capsys.readouterr().out)["files"]
    assert (good["valid"], good["findings"]) == (True, [])
    assert not bad["valid"]
    assert bad["findings"][0] == {
        "code": "SM-2011", "level": "warning", "message": "`onEror` is not a key of a step", "path": "$.steps[0].onEror", "line": 4,
        "column": 30, "hint": "did you mean `onError`?",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [\n", "flow.yaml:2:1: fatal SM-2001"),
        ("", "SM-2010"),
        (b"name: \xff\n", "flow.yaml:1:7: fatal SM-2002"),
        ("name: a\nname: b\n", "flow.yaml:2:1: fatal SM-2003"),
        ("[bold]: [/]\n", "SM-20"),
        ("- 1\n", "SM-2010"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, text: str | bytes, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = validated(tmp_path, text, capsys)
    assert code == exits.FAILED
    assert said in told


def test_of_a_long_line_the_part_around_the_place_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filler = ", ".join(f"{n}" for n in range(500))
    _, told = validated(tmp_path, f"name: f\ndescription: d\noutput: [{filler}, {{$step: b}}]\n", capsys)
    line, caret = (one for one in told.splitlines() if "|" in one or one.strip() == "^")
    assert len(line) < 200
    assert line[caret.index("^") :].startswith(("$step", "b", "{$step"))


def test_wide_characters_before_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, told = validated(tmp_path, 'name: f\ndescription: d\noutput: {"日本": {$step: b}}\n', capsys)
    line, caret = (one for one in told.splitlines() if "|" in one or one.strip() == "^")
    at = line.index("b}}") if "b}}" in line else -1
    assert caret.index("^") >= at + 2 - len("$step: "), "two columns for each wide character"


@pytest.mark.parametrize("arguments", [[], ["nowhere.yaml"]])
def test_a_wrong_call(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", *arguments]) == exits.USAGE
    assert "SM-01" in capsys.readouterr().err
