"""The demo's choice of files: the same for a seed, spread over packages, with some that do not parse."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from stepmesh_cli.demo.corpus import BROKEN, PER_PACKAGE, TOP_LEVEL, choose, parses

GOOD = "def f():\n    return 1\n" * 5


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Six packages of 30 modules, 40 modules outside packages, and tests, which are left out. None is broken."""
    root = tmp_path / "lib"
    for package in range(6):
        for module in range(30):
            path = root / f"p{package}" / f"m{module}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(GOOD)
    for module in range(40):
        (root / f"top{module}.py").write_text(GOOD)
    (root / "p0" / "__init__.py").write_text(GOOD)
    (root / "test").mkdir()
    (root / "test" / "test_p0.py").write_text(GOOD)
    return root


def test_the_same_seed_gives_the_same_files(library: Path, tmp_path: Path) -> None:
    first, again = choose(7, 100, tmp_path / "a", library), choose(7, 100, tmp_path / "a", library)
    assert first == again
    assert choose(8, 100, tmp_path / "a", library) != first


@pytest.mark.parametrize("count", [20, 100, 150])
def test_the_batch_has_the_size_asked_for_in_order_of_module(library: Path, tmp_path: Path, count: int) -> None:
    files = choose(0, count, tmp_path / "scratch", library)
    assert len(files) == count
    assert [file.module for file in files] == sorted(file.module for file in files)
    assert len({file.path for file in files}) == count


def test_a_library_without_broken_files_gets_truncated_copies(library: Path, tmp_path: Path) -> None:
    files = choose(0, 100, tmp_path / "scratch", library)
    made = [file for file in files if file.made]
    assert len(made) == BROKEN
    assert all(Path(file.path).parent == tmp_path / "scratch" for file in made)
    assert [parses(Path(file.path).read_bytes()) for file in files].count(False) == BROKEN


def test_broken_files_that_come_with_python_are_preferred(library: Path, tmp_path: Path) -> None:
    (library / "test" / "tokenizedata").mkdir()
    for number in range(BROKEN):
        (library / "test" / "tokenizedata" / f"bad{number}.py").write_text("def (:\n")
    (library / "test" / "tokenizedata" / "badly_named_but_fine.py").write_text(GOOD)
    files = choose(0, 100, tmp_path / "scratch", library)
    assert not any(file.made for file in files)
    assert sum("bad" in file.module for file in files) == BROKEN
    assert not any("fine" in file.module for file in files)


def test_no_package_crowds_out_the_others_and_tests_are_left_out(library: Path, tmp_path: Path) -> None:
    sizes = Counter(file.package for file in choose(0, 120, tmp_path / "scratch", library) if not file.made)
    assert all(size <= PER_PACKAGE for package, size in sizes.items() if package != TOP_LEVEL)
    assert "test" not in sizes
    assert sizes[TOP_LEVEL] > 0


def test_a_batch_larger_than_the_spread_allows_takes_what_there_is(library: Path, tmp_path: Path) -> None:
    assert len(choose(0, 210, tmp_path / "scratch", library)) == 210


def test_a_package_is_named_without_its_init(library: Path, tmp_path: Path) -> None:
    files = choose(0, 221, tmp_path / "scratch", library)
    init = next(file for file in files if Path(file.path).name == "__init__.py" and not file.made)
    assert (init.module, init.package) == ("p0", "p0")
    assert init.item() == {"path": init.path, "module": "p0", "package": "p0"}


def test_this_python_has_enough_files(tmp_path: Path) -> None:
    files = choose(0, 240, tmp_path)
    assert len(files) == 240
    assert sum(not parses(Path(file.path).read_bytes()) for file in files) == BROKEN
