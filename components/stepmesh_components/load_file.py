"""`/load_file`: read a file under one of the configured folders, and parse it.

Invariants: what is opened lies under a root once every link and `..` is resolved, and each folder on the way is opened without
following links, so that one that is swapped in meanwhile is refused too; only regular files within the size limit are read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from stepmesh import InvalidInput

Format = Literal["json", "yaml", "text"]
MAX_BYTES = 8 * 1024 * 1024
"""Default limit of a file's size."""
_BY_SUFFIX: dict[str, Format] = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Metadata(msgspec.Struct, frozen=True):
    """`resolved_path` has no links and no `..` left."""

    resolved_path: str
    size_bytes: int
    format: Format


class Loaded(msgspec.Struct, frozen=True):
    """`data` is the parsed value, or the text."""

    data: msgspec.Raw
    metadata: Metadata


class FileLoader:
    """Loads files from `roots` (folders). `max_bytes`: largest file."""

    def __init__(self, roots: Sequence[str | os.PathLike[str]], max_bytes: int = MAX_BYTES) -> None:
        self._roots = [Path(os.path.realpath(root)) for root in roots]
        self._max_bytes = max_bytes

    def load_file(self, path: str, format: Format | None = None) -> Loaded:
        """Read a JSON, YAML or text file under a configured folder. `format` defaults to what the file's suffix says."""
        root, inside = self._place(path)
        data = self._read(root, inside, path)
        kind = format or _BY_SUFFIX.get(inside.suffix.lower(), "text")
        return Loaded(msgspec.Raw(_parsed(data, kind, path)), Metadata(str(root / inside), len(data), kind))

    def _place(self, path: str) -> tuple[Path, Path]:
        """The root and the resolved path below it."""
        if not self._roots:
            raise InvalidInput("no folder is open to /load_file: configure its roots", path="$.path")
        if "\0" in path or not path:
            raise InvalidInput("the path is empty, or has a NUL character", path="$.path")
        inside = [(root, found.relative_to(root)) for root in self._roots if (found := _resolved(root, path)).is_relative_to(root)]
        if not inside:
            raise InvalidInput(f"{path} is outside the folders that are open to /load_file", path="$.path")
        return next(((root, below) for root, below in inside if (root / below).exists()), inside[0])

    def _read(self, root: Path, inside: Path, path: str) -> bytes:
        try:
            descriptor = _open(root, inside)
        except OSError as problem:
            raise InvalidInput(f"{path} cannot be read: {problem.strerror}", path="$.path") from problem
        told = os.fstat(descriptor)
        if not stat.S_ISREG(told.st_mode):
            os.close(descriptor)
            raise InvalidInput(f"{path} is not a regular file", path="$.path")
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise InvalidInput(f"{path} has {max(told.st_size, len(data))} bytes, above the limit of {self._max_bytes}", path="$.path")
        return data


def _resolved(root: Path, path: str) -> Path:
    return Path(os.path.realpath(root / path))


def _open(root: Path, inside: Path) -> int:
    """A descriptor of the file, reached from `root` step by step without following a link."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in inside.parts[:-1]:
            deeper = os.open(part, _READ | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = deeper
        return os.open(inside.name or ".", _READ, dir_fd=folder)
    finally:
        os.close(folder)


def _parsed(data: bytes, kind: Format, path: str) -> bytes:
    """JSON text of the file's content."""
    try:
        text = data.decode("utf-8-sig")
        if kind == "text":
            return msgspec.json.encode(text)
        if kind == "json":
            return _compact(text)
        from stepmesh_components.yaml_text import json_of_yaml  # only those who load YAML wait for its parser

        return json_of_yaml(text)
    except (UnicodeDecodeError, msgspec.MsgspecError, ValueError) as problem:
        raise InvalidInput(f"{path} is not {kind.upper() if kind != 'text' else 'UTF-8 text'}: {problem}", path="$.path") from problem


def _compact(text: str) -> bytes:
    """The same JSON without spaces; digits and key order stay."""
    encoded = text.encode()
    msgspec.json.decode(encoded)
    return msgspec.json.format(encoded, indent=-1)
