"""What a person gives as files, text or stdin, as plain values: JSON or YAML, told apart by content. Numbers keep every digit.

Every refusal is one `BadInput` that names the file, line and column. It must not know flows or runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepmesh_cli.errors import BadInput
from stepmesh_cli.main import STDIN
from stepmesh_orchestrator.core.flow.diagnostics import FlowInvalid
from stepmesh_orchestrator.core.flow.document import load

_INLINE = ("{", "[", '"')


@dataclass(frozen=True, kw_only=True)
class InputSource:
    """At most one is given; none is one input, null. `lines`: a file with one JSON value per line, one item each."""

    file: str | None = None
    json: str | None = None
    yaml: str | None = None
    lines: str | None = None


def read_inputs(source: InputSource) -> list[Any]:
    """One value per item. Raises `BadInput`."""
    given = {"--input": source.file, "--input-json": source.json, "--input-yaml": source.yaml, "--inputs": source.lines}
    named = [flag for flag, value in given.items() if value is not None]
    if len(named) > 1:
        raise BadInput(f"{' and '.join(named)} exclude each other", hint="give one of them")
    if source.lines is not None:
        return list(_values_of_lines(source.lines))
    if source.file is not None:
        return [parse_value(read_text(source.file), _name(source.file))]
    text = source.json if source.json is not None else source.yaml
    return [None if text is None else parse_value(text.encode(errors="surrogateescape"), named[0])]


def read_object(given: str | None, flag: str) -> dict[str, Any] | None:
    """An object from inline JSON (`{…}`), a file, or `-`; None when nothing was given. Raises `BadInput`."""
    if given is None:
        return None
    inline = given.lstrip().startswith(_INLINE)
    text, name = (given.encode(errors="surrogateescape"), flag) if inline else (read_text(given), _name(given))
    value = parse_value(text, name)
    if not isinstance(value, dict):
        raise BadInput(f"{name}: {flag} wants an object, not {_kind(value)}", hint='write {"name": value}')
    return value


def read_text(path: str) -> bytes:
    """A file's bytes, or all of stdin for `-`. Raises `BadInput`."""
    try:
        return sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except OSError as problem:
        raise BadInput(f"cannot read {path}: {problem.strerror or problem}", hint="check the path; - is stdin") from problem


def parse_value(text: bytes, name: str) -> Any:
    """JSON or YAML. Raises `BadInput` with the place."""
    try:
        return load(text, name=name).value
    except FlowInvalid as problem:
        raise BadInput(problem.message, hint=problem.hint or "check it with a JSON or YAML linter") from problem


def from_environment(declared: Mapping[str, Any], given: Mapping[str, Any] | None, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """`given` and, for each declared variable that it lacks, the value of the variable's `env_var`: text for strings, else JSON or
    YAML. None when there is nothing at all. Raises `BadInput`, which never shows the value."""
    found = dict(given or {})
    for name, variable in declared.items():
        text = environment.get(variable.env_var) if variable.env_var else None
        if text is None or name in found:
            continue
        if variable.schema.get("type", "string") == "string":
            found[name] = text
            continue
        try:
            found[name] = load(text, name=variable.env_var).value
        except FlowInvalid as problem:
            hint = f"it holds the variable {name}: {variable.schema.get('type')}"
            raise BadInput(f"the environment variable {variable.env_var} is neither JSON nor YAML", hint=hint) from problem
    return found if found or given is not None else None


def _values_of_lines(path: str) -> Iterator[Any]:
    name = _name(path)
    lines: Sequence[bytes] = read_text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield parse_value(line, f"{name} line {number}")


def _name(path: str) -> str:
    return "<stdin>" if path == STDIN else path


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "null"}.get(type(value), f"a {type(value).__name__}")
