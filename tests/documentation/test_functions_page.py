"""docs/durable-functions.md: its workflows run, its tests pass, its table names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from tests.documentation.page import Page, rehearse

from stepmesh.durable import wf

PAGE = Page.of("docs/durable-functions.md")


def test_consoles_show_what_comes(tmp_path: Path) -> None:
    assert rehearse(PAGE, tmp_path) == 8


def test_every_file_of_tests_is_run_by_a_console(tmp_path: Path) -> None:
    tests = [path.name for path in PAGE.write(tmp_path) if path.name.startswith("test_")]
    lines = " ".join(command.line for command in PAGE.commands())
    assert len(tests) == 4
    assert [name for name in tests if name not in lines] == []


def test_everything_of_wf_is_on_the_page_and_nothing_else() -> None:
    named = set(re.findall(r"\bwf\.(\w+)", PAGE.text))
    assert named == set(wf.__all__)
