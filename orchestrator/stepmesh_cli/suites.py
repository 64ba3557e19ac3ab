"""Which flows have test cases, and the configuration that each file's cases run under.

Look-up of the configuration: the flag; the flow's `test.configFile`, then its `test.config`; then, in the flow's folder and after it in
the working folder, `stepflow-config.test.yml` before the ordinary names. Nothing is started here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepmesh_cli.errors import BadInput
from stepmesh_orchestrator.config import Config, find_config, load_config, parse_config
from stepmesh_orchestrator.config.loading import NAMES, TEST_NAMES
from stepmesh_orchestrator.core.flow.compile import compile_flow
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostic, FlowInvalid, Level
from stepmesh_orchestrator.core.flow.document import Document, load
from stepmesh_orchestrator.core.flow.jsontext import dumps
from stepmesh_orchestrator.core.flow.testcases import Case, cases_of

SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Suite:
    """A file's cases. `problems` are its errors as a flow; it has no cases then. `source`: file of the configuration, None = none."""

    path: Path
    document: Document
    cases: tuple[Case, ...] = ()
    problems: tuple[Diagnostic, ...] = ()
    config: Config | None = None
    source: Path | None = None
    inline: bool = False


@dataclass(slots=True)
class Group:
    """Suites that run under one configuration."""

    config: Config | None
    suites: list[Suite] = field(default_factory=list[Suite])


def suites_of(paths: Sequence[Path], config: Path | None = None, case: str | None = None) -> list[Suite]:
    """The suites in files and folders (searched to the bottom), in order; with `case` only what has a case of that name.

    Raises `BadInput` for a path that is not there, `ConfigInvalid`.
    """
    found = [suite for path in flow_files(paths) if (suite := _suite(path, config, case)) is not None]
    return [suite for suite in found if suite.cases or (suite.problems and case is None)]


def grouped(suites: Iterable[Suite]) -> list[Group]:
    """By configuration, in order; one given in place has a group of its own."""
    groups: dict[Any, Group] = {}
    for suite in suites:
        key = suite.path if suite.inline else ("file", suite.source)
        groups.setdefault(key, Group(suite.config)).suites.append(suite)
    return list(groups.values())


def flow_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files among `paths`, and what may be flows in the folders, to the bottom, in order. Raises `BadInput`."""
    for path in paths:
        if path.is_dir():
            yield from sorted(_in_folder(path))
        elif path.is_file():
            yield path
        else:
            raise BadInput(f"there is no file or folder {path}", hint="check the path")


def _in_folder(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.endswith(SUFFIXES) and name not in (*NAMES, *TEST_NAMES):
                yield Path(place) / name


def _suite(path: Path, config: Path | None, case: str | None) -> Suite | None:
    """None for what is no flow with test cases."""
    try:
        text = path.read_bytes()
    except OSError as problem:
        raise BadInput(f"{path} cannot be read: {problem.strerror}", hint="check its permissions") from problem
    try:
        document = load(text, name=str(path))
    except FlowInvalid as problem:
        empty = Document(None, name=str(path), text=text.decode(errors="replace"))
        return Suite(path, empty, problems=tuple(problem.diagnostics.items))
    if not isinstance(document.value, dict) or not document.value.get("test"):
        return None
    flow, diagnostics = compile_flow(document)
    if flow is None or diagnostics.failed:
        return Suite(path, document, problems=tuple(one for one in diagnostics.items if one.level < Level.WARNING))
    tests = cases_of(document)
    cases = tuple(one for one in tests.cases if case in (None, one.name))
    if config is None and tests.config_file is None and tests.config is not None:
        return Suite(path, document, cases, config=_given(tests.config, path), inline=True)
    source = _config_file(path, config, tests.config_file)
    loaded = None if source is None else load_config(source, os.environ)[0]
    return Suite(path, document, cases, config=loaded, source=source)


def _given(config: dict[str, Any], path: Path) -> Config:
    parsed, _ = parse_config(dumps(config), os.environ, name=f"{path}: test.config")
    return parsed.model_copy(update={"working_directory": str(path.parent / (parsed.working_directory or "."))})


def _config_file(path: Path, explicit: Path | None, named: str | None) -> Path | None:
    if explicit is None and named is not None:
        explicit = path.parent / named
    if explicit is not None:
        return find_config(explicit, [])
    for folder in (path.parent, Path.cwd()):
        found = find_config(None, [folder], TEST_NAMES) or find_config(None, [folder])
        if found is not None:
            return found.resolve()
    return None
