"""Rules of the house that a machine can check: import direction, sizes, exports, and that documents tell the truth about files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [
    ROOT / "broker/stepmesh_broker",
    ROOT / "sdk/stepmesh",
    ROOT / "components/stepmesh_components",
    ROOT / "orchestrator/stepmesh_orchestrator",
    ROOT / "orchestrator/stepmesh_gateway",
    ROOT / "orchestrator/stepmesh_projector",
    ROOT / "orchestrator/stepmesh_cli",
]
SOURCES = sorted(path for package in PACKAGES for path in package.rglob("*.py") if "pb" not in path.parts)  # pb is generated
MAX_LINES = 400
CATCH_ALL = {"utils", "helpers", "common", "base", "misc", "util"}


def test_import_contracts_hold() -> None:
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_file_is_larger_than_one_thing() -> None:
    large = {str(path.relative_to(ROOT)): count for path in SOURCES if (count := len(path.read_text().splitlines())) > MAX_LINES}
    assert large == {}


def test_no_catch_all_module() -> None:
    assert [path for path in SOURCES if path.stem in CATCH_ALL] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_with_code_begins_with_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), "say what this is, the invariant that it keeps, what it must not know"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_init_files_only_re_export(package: Path) -> None:
    for init in package.rglob("__init__.py"):
        if init.parent.name in {"decide", "evolve"}:  # their tables are the package's one public function
            continue
        for node in ast.parse(init.read_text()).body:
            allowed = isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.Expr)
            assert allowed or _is_lazy_hook(node), f"{init.relative_to(ROOT)}:{node.lineno}"


def _is_lazy_hook(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.If) and getattr(node, "name", "__getattr__") in {"__getattr__", "__dir__"}


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("*/README.md")) + sorted(ROOT.glob("docs/**/*.md")))
def test_links_of_documents_exist(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
    missing = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert missing == []


def test_nothing_tracked_names_a_registry_or_a_path_of_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    hosts = re.compile(r"https?://[^ \"]*(" + "|".join(["py" + "pi", "python" + "hosted", "npm" + "js", "ma" + "ven"]) + ")")
    machine = re.compile("(^|[^A-Za-z0-9_.])/(" + "|".join(["wo" + "rk", "ro" + "ot"]) + ")/")
    found = []
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".png", ".ico"} or not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if hosts.search(text) or machine.search(text):
            found.append(name)
    assert found == []
