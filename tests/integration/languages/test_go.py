"""The Go example's own tests, its style, and that its generated code is that of broker/proto."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests import toolchains
from tests.toolchains import GO

pytestmark = pytest.mark.timeout(600)  # the first build downloads the modules


def test_its_tests_pass() -> None:
    toolchains.go(".")
    assert "ok" in toolchains.run(GO, "go", "test", "-count=1", "./stepmesh")


def test_its_code_is_clean() -> None:
    assert toolchains.run(GO, "go", "run", "cmd/gofmt", "-l", ".") == ""
    toolchains.run(GO, "go", "vet", "./...")


def test_its_generated_code_is_that_of_the_protocol(tmp_path: Path) -> None:
    toolchains.run(GO, "bash", "proto.sh", str(tmp_path))
    made = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.go")}
    committed = {str(path.relative_to(GO)): path.read_text() for path in (GO / "pb").rglob("*.go")}
    assert made == committed, "run `just go-proto`"
    assert os.path.commonpath(made) == "pb"
