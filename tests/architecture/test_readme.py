"""The README's example is run as a reader would run it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_the_twenty_lines_work(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(blocks("python")[0])
    (tmp_path / "hello.yaml").write_text(blocks("yaml")[0])
    command = shlex.split(blocks("sh")[1])
    command[0] = str(Path(sys.executable).parent / "stepmesh")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    promised = re.search(r"prints `(\{.*?\})`", (ROOT / "README.md").read_text())
    assert promised is not None
    assert json.loads(done.stdout) == json.loads(promised[1])


def test_the_example_has_twenty_lines() -> None:
    code = blocks("python")[0] + blocks("yaml")[0] + blocks("sh")[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20


def test_it_begins_with_the_two_commands() -> None:
    assert [line.split()[:2] for line in blocks("sh")[0].splitlines()] == [["./dev", "demo"], ["./dev", "test"]]
