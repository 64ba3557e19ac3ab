"""The TypeScript package's own tests, its types and its style."""

from __future__ import annotations

import re

import pytest
from tests import toolchains

pytestmark = pytest.mark.timeout(600)  # the first build installs the packages


def test_its_tests_pass() -> None:
    said = toolchains.run(toolchains.typescript(), "npm", "test")
    assert int(re.search(r"pass (\d+)", said)[1]) >= 40  # type: ignore[index]  # the runner says it


def test_its_code_is_clean() -> None:
    assert "problem" not in toolchains.run(toolchains.typescript(), "npm", "run", "lint")


def test_it_holds_what_a_package_needs() -> None:
    packed = toolchains.run(toolchains.typescript(), "npm", "pack", "--dry-run", "--json")
    for needed in ("build/src/index.js", "build/src/index.d.ts", "proto/stepmesh/v1/worker.proto", "README.md"):
        assert f'"{needed}"' in packed


def test_its_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (toolchains.TYPESCRIPT / "package-lock.json").read_text()
