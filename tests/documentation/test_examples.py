"""Every example with a flow runs as its README shows, and its flows have no warnings. (The worker in Go is run with its page.)"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.documentation.page import ROOT, Page, rehearse
from tests.environments import mcp_servers

from stepmesh_cli.main import main

FOLDERS = sorted(path for path in (ROOT / "examples").iterdir() if any(path.glob("*.yaml")))
pytestmark = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)


def test_it_runs_as_shown(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if folder.name == "mcp":
        monkeypatch.setenv("PATH", f"{mcp_servers()}:{os.environ['PATH']}")
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert rehearse(Page.of(f"examples/{folder.name}/README.md"), copy) >= 1


def test_its_readme_is_short(folder: Path) -> None:
    assert len((folder / "README.md").read_text().splitlines()) <= 15


def test_its_flows_are_clean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flows = [str(path) for path in folder.glob("*.yaml") if path.name != "stepmesh.yaml"]
    assert flows
    assert main(["validate", "--strict", *flows]) == 0, capsys.readouterr().out
