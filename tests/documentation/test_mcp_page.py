"""docs/mcp.md: its session with two public servers, and its figures against the source."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mcp.client.stdio import DEFAULT_INHERITED_ENV_VARS, PROCESS_TERMINATION_TIMEOUT
from tests.documentation.page import Page, rehearse
from tests.environments import mcp_servers

from stepmesh_cli.main import main
from stepmesh_components.mcp_link import BACKOFF_S
from stepmesh_components.mcp_server import START_TIMEOUT_S, McpServer
from stepmesh_components.mcp_worker import McpWorker

PAGE = Page.of("docs/mcp.md")


def test_the_session_is_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{mcp_servers()}:{os.environ['PATH']}")
    assert rehearse(PAGE, tmp_path) >= 7


def test_its_flow_is_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PAGE.write(tmp_path)
    assert main(["validate", "--strict", str(tmp_path / "noon.yaml")]) == 0, capsys.readouterr().err


def test_figures_in_the_text_are_the_source() -> None:
    names = DEFAULT_INHERITED_ENV_VARS
    assert f"{', '.join(names[:-1])} and {names[-1]}" in PAGE.text
    assert f"{START_TIMEOUT_S:g} unless given" in PAGE.text
    assert f"after {BACKOFF_S[0]:g} s at first, up to {BACKOFF_S[1]:g} s" in PAGE.text
    assert f"up to {McpWorker(McpServer(name='x', pool='x', command='x')).concurrency} at a time" in PAGE.text
    assert f"{PROCESS_TERMINATION_TIMEOUT:g} s apart" in PAGE.text
