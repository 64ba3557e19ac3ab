"""Finding, reading and checking a configuration file. The environment comes in as a mapping; nothing else is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from stepmesh_orchestrator.config.errors import ConfigInvalid
from stepmesh_orchestrator.config.models import Config
from stepmesh_orchestrator.core.flow import paths
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostic, FlowInvalid, Level
from stepmesh_orchestrator.core.flow.document import Document, load
from stepmesh_orchestrator.core.flow.findings import nearest
from stepmesh_orchestrator.core.flow.paths import Path

NAMES = (
    "stepmesh.yml", "stepmesh.yaml", "stepflow-config.yml", "stepflow-config.yaml", "stepflow_config.yml", "stepflow_config.yaml",
)  # fmt: skip
TEST_NAMES = ("stepflow-config.test.yml", "stepflow-config.test.yaml")
_REFERENCE = re.compile(r"\$(\$\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def find_config(explicit: FilePath | None, folders: Sequence[FilePath], names: Sequence[str] = NAMES) -> FilePath | None:
    """The file to use: `explicit`, else the one in the first of `folders` that has one. None when there is none.

    Raises `ConfigInvalid` SM-0201 when a folder has two, SM-0203 when `explicit` is not a file.
    """
    if explicit is not None:
        if not explicit.is_file():
            raise ConfigInvalid(f"there is no configuration file {explicit}", code="SM-0203", hint="check --config")
        return explicit
    for folder in folders:
        found = [folder / name for name in names if (folder / name).is_file()]
        if len(found) > 1:
            shown = ", ".join(path.name for path in found)
            raise ConfigInvalid(
                f"{folder} has several configuration files: {shown}", code="SM-0201", hint="keep one, or name it with --config"
            )
        if found:
            return found[0]
    return None


def load_config(path: FilePath, environment: Mapping[str, str]) -> tuple[Config, list[Diagnostic]]:
    """Read a file; `workingDirectory` becomes its folder when it is absent. Returns the warnings beside. Raises `ConfigInvalid`."""
    try:
        text = path.read_bytes()
    except OSError as problem:
        raise ConfigInvalid(f"{path} cannot be read: {problem.strerror}", code="SM-0203", hint="check its permissions") from problem
    config, warnings = parse_config(text, environment, name=str(path))
    folder = path.parent if config.working_directory is None else path.parent / config.working_directory
    return config.model_copy(update={"working_directory": str(folder)}), warnings


def parse_config(text: bytes | str, environment: Mapping[str, str], *, name: str = "<config>") -> tuple[Config, list[Diagnostic]]:
    """Check a configuration given as text. Unknown keys are warnings, everything else raises `ConfigInvalid`."""
    try:
        document = load(text, name=name)
    except FlowInvalid as problem:
        raise ConfigInvalid(problem.message, problem.diagnostics.items, hint=problem.hint) from problem
    given = {} if document.value is None else document.value
    if not isinstance(given, dict):
        raise ConfigInvalid(f"{name}: a configuration must be an object", hint="write plugins: {…}")
    value = _substituted(given, environment, (), document)
    try:
        config = Config.model_validate(value)
    except ValidationError as refused:
        raise _invalid(_problems(refused, value), document) from refused
    if problems := list(config.problems()):
        raise _invalid(problems, document)
    return config, [_unknown(path, known, document) for path, known in config.unknown_keys()]


def _substituted(value: Any, environment: Mapping[str, str], path: Path, document: Document) -> Any:
    """`${VAR}` and `${VAR:-default}` (used when VAR is unset or empty) in every string, keys included; `$${` is a plain `${`."""
    if isinstance(value, dict):
        return {
            _substituted(key, environment, (*path, key), document): _substituted(member, environment, (*path, key), document)
            for key, member in value.items()
        }
    if isinstance(value, list):
        return [_substituted(member, environment, (*path, index), document) for index, member in enumerate(value)]
    if not isinstance(value, str) or "$" not in value:
        return value

    def replaced(match: re.Match[str]) -> str:
        if match[1]:
            return match[1]
        found = environment.get(match[2]) or match[3]
        if found is None and match[2] not in environment:
            where = _place(document, path)
            hint = f"set it, or write ${{{match[2]}:-default}}"
            raise ConfigInvalid(f"{where}: the environment variable {match[2]} is not set", code="SM-0202", hint=hint)
        return found or ""

    return _REFERENCE.sub(replaced, value)


def _place(document: Document, path: Path) -> str:
    line, column = document.position(path) or (1, 1)
    return f"{document.name}:{line}:{column}: {paths.show(path)}"


def _unknown(path: Path, known: tuple[str, ...], document: Document) -> Diagnostic:
    near = nearest(str(path[-1]), known)
    line, column = document.position(path) or (None, None)
    hint = f"did you mean `{near[0]}`?" if near else ""
    return Diagnostic("SM-0204", Level.WARNING, f"`{path[-1]}` is not a key here", paths.show(path), line, column, hint)


def _invalid(problems: Iterable[tuple[Path, str]], document: Document) -> ConfigInvalid:
    findings: list[Diagnostic] = []
    for path, message in problems:
        line, column = document.position(path) or (None, None)
        findings.append(Diagnostic("SM-0200", Level.ERROR, message, paths.show(path), line, column))
    first = findings[0]
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    hint = "see the documentation of the configuration file"
    return ConfigInvalid(f"{document.name}:{first.line}:{first.column}: {first.path}: {first.message}{more}", findings, hint=hint)


def _problems(refused: ValidationError, value: Any) -> Iterator[tuple[Path, str]]:
    """Each once, though a backend in the short form is checked for every role."""
    errors = refused.errors(include_url=False, include_input=False, include_context=False)
    found = ((_existing(error, value), error["msg"].removeprefix("Value error, ")) for error in errors)
    return iter(dict.fromkeys(found))


def _existing(error: ErrorDetails, value: Any) -> Path:
    """Where the error is in the text: pydantic's location without the parts that are its own, such as the tag of a union."""
    path: list[str | int] = []
    for part in error["loc"]:
        found = _member(value, part)
        if found is not None:
            path.append(part)
            value = found
    return (*path, error["loc"][-1]) if error["type"] == "missing" else tuple(path)


def _member(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None
