"""Which files the demo surveys: a sample of the running Python's standard library, and some that do not parse.

Invariant: the same Python and seed give the same list. Nothing here runs a flow.
"""

from __future__ import annotations

import random
import sysconfig
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from stepmesh_cli.demo.source_code import tree_of

DEFAULT_FILES = 240
"""Size of the batch."""
BROKEN = 6
"""How many of them do not parse."""
PER_PACKAGE = 18
"""At most, so that no package crowds the plots; modules outside packages count as one package."""
TOP_LEVEL = "(top level)"
_LEFT_OUT = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo", "__pycache__", "pydoc_data"})
_KNOWN_BROKEN = ("lib2to3/tests/data/*.py", "test/tokenizedata/bad*.py", "test/bad*.py", "test/test_future_stmt/bad*.py")


class SourceFile(NamedTuple):
    """`module`: dotted name; `package`: its first part, or `TOP_LEVEL`; `made`: a truncated copy that the demo wrote."""

    path: str
    module: str
    package: str
    made: bool = False

    def item(self) -> dict[str, object]:
        """The batch's input for this file."""
        return {"path": self.path, "module": self.module, "package": self.package}


def choose(seed: int, count: int, scratch: Path, root: Path | None = None) -> list[SourceFile]:
    """`count` files of the standard library under `root`, `BROKEN` of them without a valid syntax tree, sorted by module.

    A Python that ships too few such files gets truncated copies of good ones, written under `scratch`.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    dice = random.Random(f"stepmesh demo {seed}")
    broken = [_named(root, path) for pattern in _KNOWN_BROKEN for path in sorted(root.glob(pattern)) if not parses(path.read_bytes())]
    dice.shuffle(broken)
    wanted = min(BROKEN, max(1, count // 10))
    good = _sample(root, dice, count - wanted)
    broken = broken[:wanted]
    broken += [_truncated(file, scratch) for file in good[: wanted - len(broken)]]
    return sorted(good + broken, key=lambda file: file.module)


def parses(text: bytes) -> bool:
    """Whether it has a syntax tree."""
    try:
        tree_of(text)
    except (SyntaxError, ValueError):
        return False
    return True


def _sample(root: Path, dice: random.Random, count: int) -> list[SourceFile]:
    files = [_named(root, path) for path in sorted(root.rglob("*.py")) if not _LEFT_OUT & set(path.relative_to(root).parts)]
    dice.shuffle(files)
    chosen: list[SourceFile] = []
    spare: list[SourceFile] = []
    sizes: Counter[str] = Counter()
    for file in files:
        sizes[file.package] += 1
        most = PER_PACKAGE * 6 if file.package == TOP_LEVEL else PER_PACKAGE
        (chosen if sizes[file.package] <= most else spare).append(file)
    return (chosen + spare)[:count]


def _named(root: Path, path: Path) -> SourceFile:
    parts = path.relative_to(root).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
    return SourceFile(str(path), name, parts[0] if len(parts) > 1 else TOP_LEVEL)


def _truncated(file: SourceFile, scratch: Path) -> SourceFile:
    """A copy that ends in the middle of an open bracket."""
    scratch.mkdir(parents=True, exist_ok=True)
    copy = scratch / f"{file.module}_truncated.py"
    text = Path(file.path).read_bytes()
    copy.write_bytes(text[: len(text) // 2].rsplit(b"\n", 1)[0] + b"\nbroken = (\n")
    return SourceFile(str(copy), f"{file.module}_truncated", file.package, made=True)
