"""The workers in other languages, built once per checkout whoever asks first, in folders that git ignores.

Invariant: processes of pytest-xdist build one after the other, and a build is done again when anything that it reads has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.environments import program

ROOT = Path(__file__).parents[1]
TYPESCRIPT = ROOT / "sdk/typescript/worker"
GO = ROOT / "examples/go-worker"
_PROTOCOL = ROOT / "broker/proto"
_LIMIT_S = 300
_TOOLCHAIN = {TYPESCRIPT: "node", GO: "go"}


def run(folder: Path, name: str, *arguments: str) -> str:
    """What a command said. Fails the test that needs it when it says no."""
    tools = program(_TOOLCHAIN[folder]).parent
    path = f"{Path(sys.executable).parent}:{tools}:{os.environ['PATH']}"
    around = {"PATH": path, "npm_config_update_notifier": "false", "npm_config_loglevel": "error"}
    done = subprocess.run(
        [shutil.which(name, path=path) or name, *arguments],
        cwd=folder, env={**os.environ, **around}, capture_output=True, text=True, timeout=_LIMIT_S, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        said = f"{done.stdout}\n{done.stderr}"
        pytest.fail(f"{name} {' '.join(arguments)} in {folder.relative_to(ROOT)} ended with {done.returncode}:\n{said}")
    return done.stdout


def typescript() -> Path:
    """Folder of the built TypeScript package."""
    with _alone(TYPESCRIPT) as stamps:
        packages = _digest([TYPESCRIPT / "package.json", TYPESCRIPT / "package-lock.json"])
        if _changed(stamps / "packages", packages):
            run(TYPESCRIPT, "npm", "ci")
            (stamps / "packages").write_text(packages)
        sources = [*_files(TYPESCRIPT / "src"), *_files(TYPESCRIPT / "test"), *_files(TYPESCRIPT / "scripts"), TYPESCRIPT / "tsconfig.json"]
        built = packages + _digest([path for path in sources if "pb" not in path.parts] + _files(_PROTOCOL))
        if _changed(stamps / "built", built):
            run(TYPESCRIPT, "npm", "run", "build")
            (stamps / "built").write_text(built)
    return TYPESCRIPT


def go(package: str) -> Path:
    """The program of a package of the Go example, such as `./behaviour`. Go itself knows what has changed."""
    program = GO / "build" / (Path(package).name or "worker")
    with _alone(GO):
        run(GO, "go", "build", "-buildvcs=false", "-o", str(program), package)
    return program


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """One process of the machine at a time; the folder for stamps."""
    stamps = folder / "build"
    stamps.mkdir(exist_ok=True)
    with (stamps / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield stamps


def _changed(stamp: Path, now: str) -> bool:
    return not stamp.exists() or stamp.read_text() != now


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
