"""The program as a whole, in this process: parsing, help, exit codes, how errors look."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stepmesh_broker.errors import BrokerUnavailable, StepmeshError
from stepmesh_cli import exits, reporting
from stepmesh_cli.main import COMMANDS, main

NAMES = [command.name for command in COMMANDS]


def flow(folder: Path, text: str = "name: f\noutput: {$input: n}\n") -> str:
    path = folder / "flow.yaml"
    path.write_text(text)
    return str(path)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == exits.OK
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == exits.OK
    assert f"Example: stepmesh {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [name for name in NAMES if name not in ("completion", "journal", "runs", "server", "gateway", "projector", "mcp", "event", "schedule")]
    + ["journal verify", "journal repair", "event send", *(f"runs {action}" for action in ("cancel", "pause", "resume", "retry", "delete"))]
    + [f"schedule {verb}" for verb in ("create", "list", "show", "pause", "resume", "trigger", "backfill", "delete")],
)
def test_every_command_speaks_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([*name.split(), "--help"])
    assert "--json" in capsys.readouterr().out


def test_a_run_imports_neither_grpc_nor_http(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom stepmesh_cli.main import main\n"
        f"assert main(['run', {flow(tmp_path)!r}, '--input-json', '{{\"n\": 1}}', '--quiet']) == 0\n"
        "heavy = {'grpc', 'google', 'starlette', 'uvicorn', 'mcp', 'nats', 'httpx'}\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ['{"outcome":"success","result":1}', "[]"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == exits.OK
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nope"], "SM-0100 Unknown command"),
        (["run", "--nope"], "SM-0100 Unknown option"),
        (["run"], "SM-0101 give one flow"),
        (["run", "a", "--flow", "b"], "SM-0101 give one flow"),
        (["run", "nowhere.yaml"], "SM-0108 there is no flow file nowhere.yaml"),
        (["status"], "SM-0100"),
        (["list", "--limit", "many"], "SM-0100"),
        (["submit", "f", "--tag", "x"], "SM-0108"),
    ],
)
def test_a_wrong_call_is_one_clear_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == exits.USAGE
    shown = capsys.readouterr()
    assert told in shown.err
    assert shown.out == ""
    assert "Traceback" not in shown.err


def test_a_run_prints_its_result_and_nothing_else_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", flow(tmp_path), "--input-json", '{"n": 12345678901234567890123, "x": 1.0}']) == exits.OK
    shown = capsys.readouterr()
    assert shown.out == '{"outcome":"success","result":12345678901234567890123}\n'
    assert "completed" in shown.err


def test_a_failed_run_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--flow", flow(tmp_path), "--input-json", "{}", "--quiet"]) == exits.FAILED
    shown = capsys.readouterr()
    assert '"code":"EXPRESSION_FAILURE"' in shown.out
    assert shown.err == ""


def test_an_invalid_flow_is_told_with_its_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = flow(tmp_path, "name: f\nsteps:\n  - {id: a, component: /x/y, input: {$step: b}}\noutput: {$step: a}\n")
    assert main(["run", path]) == exits.USAGE
    shown = capsys.readouterr().err
    assert f"{path}:3:" in shown
    assert "SM-2" in shown


def test_results_go_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert main(["run", flow(tmp_path), "--input-json", '{"n": 1}', "--output", str(out)]) == exits.OK
    assert out.read_text() == '{"outcome":"success","result":1}\n'
    assert capsys.readouterr().out == ""


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", flow(tmp_path), "--input-json", '{"n": 1}', "--output", str(tmp_path)]) == exits.USAGE
    assert "SM-0108 cannot write" in capsys.readouterr().err


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nowhere.yaml", "--debug"]) == exits.USAGE
    assert "Traceback" in capsys.readouterr().err


def test_nobody_there_ends_with_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == exits.UNREACHABLE
    assert "SM-0110" in capsys.readouterr().err
    assert main(["list", "--data", str(tmp_path)]) == exits.UNREACHABLE
    assert "no deployment runs in" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["list", "--data", str(tmp_path / "file")]) == exits.UNREACHABLE
    assert "SM-0110 the endpoint of" in capsys.readouterr().err
    assert main(["list", "--url", "nats://127.0.0.1:1"]) == exits.UNREACHABLE
    assert "SM-3001" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("problem", "code", "told"),
    [
        (StepmeshError("x", code="SM-2001", hint="do y"), exits.USAGE, "SM-2001 x"),
        (BrokerUnavailable("away"), exits.UNREACHABLE, "SM-3001 away"),
        (StepmeshError("port", code="SM-3011"), exits.USAGE, "SM-3011"),
        (StepmeshError("journal", code="SM-4001"), exits.FAILED, "SM-4001"),
        (StepmeshError("no run", code="SM-5003"), exits.USAGE, "SM-5003"),
        (StepmeshError("failed", code="SM-5101"), exits.FAILED, "SM-5101"),
        (ImportError("gone", name="jsonschema_rs"), exits.USAGE, "SM-0111 this install lacks jsonschema_rs"),
        (KeyError("k"), exits.FAILED, "SM-0199 a defect of Stepmesh"),
    ],
)
def test_errors_end_with_their_code(problem: Exception, code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reporting.report(problem, debug=False) == code
    shown = capsys.readouterr().err
    assert told in shown
    assert "Traceback" not in shown


def test_a_hint_is_its_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    reporting.report(StepmeshError("x", code="SM-2001", hint="do y"), debug=False)
    assert capsys.readouterr().err.splitlines() == ["SM-2001 x", "  → do y"]


def test_no_command_is_imported_before_it_is_called() -> None:
    heavy = ("stepmesh", "nats", "pydantic", "rich")
    code = f"import sys, stepmesh_cli.main as m; m.build_app(); print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "show", "--shell", shell]) == exits.OK
    script = capsys.readouterr().out
    assert all(name in script for name in NAMES)
    assert main(["completion", "install", "--shell", shell, "--output", str(tmp_path / "script")]) == exits.OK
    assert (tmp_path / "script").read_text().strip() == script.strip()
