"""`stepmesh test`: which cases are found, how they are judged, what is printed and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepmesh_cli import exits
from stepmesh_cli.main import main
from stepmesh_cli.suites import grouped, suites_of
from stepmesh_orchestrator.config import ConfigInvalid

MOCK = """plugins: {mock: {type: mock, components: {/say: {behaviors: {'1': {outcome: success, result: %s}}}}}}
routes: {/mock: [{plugin: mock}]}
"""
SAYS = """name: says
steps: [{id: s, component: /mock/say, input: {$input: $}}]
output: {$step: s}
test: {cases: [{name: one, input: 1, output: {outcome: success, result: %s}}]}
"""
PLAIN = """# a flow
name: plain
output: {n: {$input: n}}
test:
  cases:
    - {name: good, input: {n: 1}, output: {outcome: success, result: {n: 1}}}   # stays
    - name: wrong
      input: {n: 2}
      output:
        outcome: success
        result: {n: 3}
    - {name: fails, input: {}, output: {outcome: success, result: 1}}
    - {name: no expectation, input: {n: 5}}
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_verdicts_and_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "f.yaml", PLAIN)
    assert main(["test", str(path)]) == exits.FAILED
    told = capsys.readouterr().out
    assert "2 passed, 2 failed" in told
    assert "$.result.n: got 2, expected 3" in told
    assert "expected success: EXPRESSION_FAILURE Input path $.n not found" in told


@pytest.mark.parametrize(
    ("case", "code"), [("good", exits.OK), ("wrong", exits.FAILED), ("no expectation", exits.OK), ("nope", exits.USAGE)]
)
def test_one_case_by_name(tmp_path: Path, case: str, code: int) -> None:
    assert main(["test", str(write(tmp_path, "f.yaml", PLAIN)), "--case", case]) == code


def test_nothing_found_is_a_wrong_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "no_cases.yaml", "name: x\noutput: 1\n")
    write(tmp_path, "data.json", "[1, 2]")
    for arguments in ([str(tmp_path)], [str(tmp_path / "nowhere")], []):
        assert main(["test", *arguments]) == exits.USAGE
    told = capsys.readouterr().err
    assert "no test case in" in told
    assert "there is no file or folder" in told


def test_json_output_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", str(write(tmp_path, "f.yaml", PLAIN)), "--json"]) == exits.FAILED
    told = json.loads(capsys.readouterr().out)
    assert (told["passed"], told["failed"], told["invalid"]) == (2, 2, [])
    assert [case["case"] for case in told["cases"] if not case["passed"]] == ["wrong", "fails"]
    assert told["cases"][1]["actual"] == {"outcome": "success", "result": {"n": 2}}


def test_few_differences_without_diff_all_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ", ".join(f"k{n}: {n + 1}" for n in range(5))
    given = ", ".join(f"k{n}: {n}" for n in range(5))
    case = f"{{name: a, input: {{{given}}}, output: {{outcome: success, result: {{{wanted}}}}}}}"
    text = f"name: d\noutput: {{$input: $}}\ntest: {{cases: [{case}]}}\n"
    path = str(write(tmp_path, "f.yaml", text))
    main(["test", path])
    assert "2 more: --diff" in capsys.readouterr().out
    main(["test", path, "--diff"])
    told = capsys.readouterr().out
    assert all(f"$.result.k{n}: got {n}, expected {n + 1}" in told for n in range(5))


def test_update_writes_what_came_out_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, "f.yaml", PLAIN)
    assert main(["test", str(path), "--update"]) == exits.OK
    after = path.read_text().splitlines()
    before = PLAIN.splitlines()
    assert after[:6] == before[:6]
    assert main(["test", str(path)]) == exits.OK
    assert "{name: no expectation, input: {n: 5}, output: {outcome: success, result: {n: 5}}}" in path.read_text()
    assert "EXPRESSION_FAILURE" in path.read_text()


def test_update_of_a_passing_file_leaves_it_alone(tmp_path: Path) -> None:
    text = PLAIN.split("    - name: wrong")[0]
    path = write(tmp_path, "f.yaml", text)
    before = path.stat().st_mtime_ns
    assert main(["test", str(path), "--update"]) == exits.OK
    assert path.stat().st_mtime_ns == before


def test_a_flow_that_does_not_compile_fails_with_its_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "bad.yaml", "name: x\noutput: {$step: nowhere}\ntest: {cases: [{name: a, input: 1}]}\n")
    write(tmp_path, "torn.yaml", "a: [\n")
    assert main(["test", str(tmp_path)]) == exits.FAILED
    told = capsys.readouterr()
    assert "0 passed, 2 failed" in told.out
    assert "SM-2023" in told.err
    assert "torn.yaml:2:1" in told.err


def test_a_run_that_does_not_end_fails_and_says_what_it_waits_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "name: x\nsteps: [{id: s, component: /nobody/x}]\noutput: {$step: s}\ntest: {cases: [{name: a, input: 1}]}\n"
    assert main(["test", str(write(tmp_path, "f.yaml", text)), "--timeout", "0.05"]) == exits.FAILED
    told = capsys.readouterr().out
    assert "still runs" in told
    assert "pool nobody has 0 workers" in told


# --- which configuration ---------------------------------------------------------------------------------------------


def verdict(*arguments: str) -> int:
    return main(["test", *arguments])


def test_configuration_look_up_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, working = tmp_path / "flows", tmp_path / "cwd"
    working.mkdir()
    monkeypatch.chdir(working)
    path = write(beside, "f.yaml", SAYS % "1")
    write(working, "stepmesh.yml", MOCK % "1")
    assert verdict(str(path)) == exits.OK, "the working folder's"
    write(beside, "stepflow-config.yml", MOCK % "2")
    path.write_text(SAYS % "2")
    assert verdict(str(path)) == exits.OK, "the ordinary one beside the flow goes before it"
    write(beside, "stepflow-config.test.yml", MOCK % "3")
    path.write_text(SAYS % "3")
    assert verdict(str(path)) == exits.OK, "the one for tests goes before the ordinary one"
    write(beside, "named.yml", MOCK % "4")
    path.write_text((SAYS % "4").replace("test: {", "test: {configFile: named.yml, "))
    assert verdict(str(path)) == exits.OK, "the flow's own goes before what lies about"
    flag = write(tmp_path, "flag.yml", MOCK % "5")
    path.write_text((SAYS % "5").replace("test: {", "test: {configFile: named.yml, "))
    assert verdict(str(path), "--config", str(flag)) == exits.OK, "the flag goes before all"


def test_configuration_in_place(tmp_path: Path) -> None:
    inline = "test: {config: {plugins: {mock: {type: mock, components: {/say: {behaviors: {'1': {result: 9, outcome: success}}}}}}, "
    inline += "routes: {/mock: [{plugin: mock}]}}, "
    path = write(tmp_path, "f.yaml", (SAYS % "9").replace("test: {", inline))
    assert verdict(str(path)) == exits.OK


def test_two_configurations_in_one_folder_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "f.yaml", SAYS % "1")
    write(tmp_path, "stepmesh.yml", MOCK % "1")
    write(tmp_path, "stepflow-config.yml", MOCK % "1")
    with pytest.raises(ConfigInvalid, match="SM-0201"):
        suites_of([path])


def test_one_deployment_per_configuration(tmp_path: Path) -> None:
    for name, folder in (("a", "one"), ("b", "one"), ("c", "two")):
        write(tmp_path / folder, f"{name}.yaml", SAYS % "1")
        write(tmp_path / folder, "stepmesh.yml", MOCK % "1")
    groups = grouped(suites_of([tmp_path]))
    assert [[suite.path.name for suite in group.suites] for group in groups] == [["a.yaml", "b.yaml"], ["c.yaml"]]


def test_hidden_folders_are_not_searched(tmp_path: Path) -> None:
    write(tmp_path / ".venv", "f.yaml", PLAIN)
    write(tmp_path / "sub" / "deep", "g.yaml", PLAIN)
    assert [suite.path.name for suite in suites_of([tmp_path])] == ["g.yaml"]
