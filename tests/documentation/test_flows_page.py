"""docs/flows.md: every flow on the page passes its cases and has no warnings; every console shows what really comes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.documentation.page import Page, rehearse

from stepmesh_cli.main import main

PAGE = Page.of("docs/flows.md")
WRONG_ON_PURPOSE = {"broken.yaml", "typo.yaml"}
WARNS_ON_PURPOSE = {"variables.yaml"}  # it refers to a variable that is not declared


@pytest.fixture
def flows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return [path.name for path in PAGE.write(tmp_path) if not path.name.startswith("stepflow") and path.name not in WRONG_ON_PURPOSE]


def test_every_example_passes_its_cases(flows: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--json", *flows]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {case["file"] for case in told["cases"]} == set(flows)
    assert len(flows) >= 12
    assert told["failed"] == 0
    assert told["invalid"] == []


def test_no_example_has_a_warning(flows: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    clean = [name for name in flows if name not in WARNS_ON_PURPOSE]
    assert main(["validate", "--strict", *clean]) == 0, capsys.readouterr().err


def test_consoles_show_what_comes(tmp_path: Path) -> None:
    assert rehearse(PAGE, tmp_path) >= 6
