"""The report: one file that needs nothing else, with every plot and table, and nothing from the surveyed files unescaped."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.recording import FILES, Recorded

from stepmesh_cli.demo import figures, numeric
from stepmesh_cli.demo.report import render, write_report
from stepmesh_cli.demo.stage import Stage, hiccup_note
from stepmesh_cli.demo.timings import facts


@pytest.fixture
def parts(recorded: Recorded, tmp_path: Path) -> dict[str, Any]:
    files = recorded.survey["files"]
    vectors = [file["vector"] for file in files]
    stage = Stage(tmp_path, 0, recorded.files)
    run = {**facts(recorded.history, recorded.executions, recorded.root), "about": stage.about(hiccup_note())}
    layout = {"points": numeric.layout(vectors), "alike": numeric.neighbours([file["module"] for file in files], vectors, 8)}
    return copy.deepcopy({"survey": recorded.survey, "run": run, "layout": layout})


def test_it_is_one_file_that_loads_nothing(parts: dict[str, Any]) -> None:
    page = render(**parts)
    assert page.startswith("<!doctype html>")
    assert not re.search(r"<(script|link|iframe|img)\b", page)
    assert not re.search(r"""(?:href|src)=["'](?!#)""", page)
    assert "url(http" not in page
    assert "$" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S)


def test_every_plot_is_well_formed(parts: dict[str, Any]) -> None:
    plots = re.findall(r"<svg.*?</svg>", render(**parts), flags=re.S)
    assert len(plots) == 6
    for plot in plots:
        assert ElementTree.fromstring(plot).tag.endswith("svg")


def test_each_point_has_a_tooltip(parts: dict[str, Any]) -> None:
    page = render(**parts)
    parsed = sum(file["outline"]["parsed"] for file in parts["survey"]["files"])
    assert page.count("<title>") == 1 + parsed + FILES


def test_files_that_do_not_parse_are_listed_with_their_error(parts: dict[str, Any]) -> None:
    page = render(**parts)
    bad = [file for file in parts["survey"]["files"] if not file["outline"]["parsed"]]
    assert bad
    for file in bad:
        assert file["module"] in page
        assert file["documentation"] is None


def test_text_from_the_files_is_escaped(parts: dict[str, Any]) -> None:
    bad = next(file for file in parts["survey"]["files"] if not file["outline"]["parsed"])
    bad["outline"]["error"] = "<script>alert('x')</script>"
    good = next(file for file in parts["survey"]["files"] if file["outline"]["parsed"])
    good["module"] = good["package"] = "<b>&amp;"
    page = render(**parts)
    assert "<script>" not in page
    assert "<b>&amp;<" not in page
    assert "&lt;script&gt;" in page


def test_it_is_written_whole(parts: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    told = write_report(parts["survey"], parts["run"], parts["layout"], path)
    assert told == {"path": str(path), "bytes": path.stat().st_size, "files": FILES, "plots": 6}
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]


def test_plots_of_nothing_are_empty_not_errors() -> None:
    assert figures.throughput({"bin_s": 1.0, "pools": {}, "marks": []}).startswith("<svg")
    assert figures.complexity_of_functions([]) == ""
    assert figures.slowest([]) == ""
    assert figures.coverage([]) == ""


def test_kills_are_marked_on_the_timeline() -> None:
    plot = figures.throughput({"bin_s": 1.0, "pools": {"cpu": [3, 4, 5]}, "marks": [[1.5, "kill -9 worker"]]})
    assert "kill -9 worker" in plot


def test_the_most_frequent_packages_get_the_colours() -> None:
    names = [f"p{number}" for number in range(20) for _ in range(number)]
    paint = figures.colours(names)
    assert list(paint) == [f"p{number}" for number in range(19, 11, -1)]
    assert len(set(paint.values())) == len(paint)


def test_the_same_survey_gives_the_same_page(parts: dict[str, Any]) -> None:
    assert render(**parts) == render(**parts)
