"""docs/workers.md: its code runs, its consoles show what comes."""

from __future__ import annotations

from pathlib import Path

from tests.documentation.page import Page, rehearse

from stepmesh_cli.worker import load_worker

PAGE = Page.of("docs/workers.md")


def test_consoles_show_what_comes(tmp_path: Path) -> None:
    assert rehearse(PAGE, tmp_path) >= 8


def test_every_module_offers_components(tmp_path: Path) -> None:
    modules = [path for path in PAGE.write(tmp_path) if path.suffix == ".py"]
    assert len(modules) >= 6
    assert all(len(load_worker(str(path))) for path in modules)


def test_every_flow_is_run_by_a_console(tmp_path: Path) -> None:
    flows = [path.name for path in PAGE.write(tmp_path) if path.suffix == ".yaml"]
    lines = " ".join(command.line for command in PAGE.commands())
    assert [name for name in flows if name not in lines] == []
