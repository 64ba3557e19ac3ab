"""docs/schedules.md: its consoles show what comes, its Python runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.documentation.page import Page, Terminal, matches, rehearse

from stepmesh_broker.nats import read_endpoint

PAGE = Page.of("docs/schedules.md")


def test_consoles_show_what_comes(tmp_path: Path) -> None:
    assert rehearse(PAGE, tmp_path) >= 8


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PAGE.write(tmp_path)
    terminal = Terminal(tmp_path)
    start = PAGE.commands()[0]
    try:
        assert matches(start.shown, terminal.run(start))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("STEPMESH_URL", read_endpoint(tmp_path / ".stepmesh") or "")
        (code,) = [fence.text for fence in PAGE.fences() if fence.language == "python"]
        names: dict[str, object] = {}
        exec(code, names)  # the page's own
        asyncio.run(names["plan"]())  # type: ignore[operator]  # a coroutine function
    finally:
        terminal.close()
