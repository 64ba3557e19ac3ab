"""Test cases inside a flow: reading them, and comparing what came out with what was expected.

Comparison is partial for objects and exact for all else: every key of the expectation must exist and match, lists must have equal
length, integers and floats differ (`1` is not `1.0`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from stepmesh_orchestrator.core.flow import paths
from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.document import Document
from stepmesh_orchestrator.core.flow.fields import Fields, kind_of
from stepmesh_orchestrator.core.flow.findings import Findings
from stepmesh_orchestrator.core.flow.jsontext import dumps
from stepmesh_orchestrator.core.flow.paths import Path

_MAX_SHOWN = 200
_MAX_DIFFERENCES = 50
_RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Case:
    """One case. `expected` is a FlowResult as plain values, None when the case only says that it succeeds. `variables` and
    `overrides` as at submission. `path` is its place."""

    name: str
    description: str
    input: Any
    expected: dict[str, Any] | None
    path: Path
    variables: dict[str, Any] | None = None
    overrides: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CaseSet:
    """The `test` of a flow. `config` is a configuration given in place."""

    config_file: str | None
    config: dict[str, Any] | None
    cases: tuple[Case, ...]


def cases_of(document: Document) -> CaseSet:
    """The test cases of a document that compiles."""
    return read_cases(Fields(document.value, (), Findings(document.position), "the flow"))


def read_cases(flow: Fields) -> CaseSet:
    """Read `test`, reporting what is wrong with it."""
    test = flow.inner("test")
    test.only(("configFile", "config", "cases"), "`test`")
    config = test.inner("config").value if test.get("config") is not None else None
    cases: list[Case] = []
    names: set[str] = set()
    for index, case in enumerate(test.items("cases")):
        fields = Fields(case if case is not None else [], (*test.at("cases"), index), flow.findings, "the test case")
        fields.only(("name", "description", "input", "output", "variables", "overrides"), "a test case")
        name = fields.required_text("name", "name: what it shows")
        if name and name in names:
            fields.report(Code.TEST, "name", f"there are two test cases `{name[:60]}`", "give each its own name")
        names.add(name)
        variables, overrides = (fields.inner(key).value if fields.get(key) is not None else None for key in ("variables", "overrides"))
        cases.append(
            Case(name, fields.text("description") or "", fields.get("input"), _expected(fields), fields.path, variables, overrides)
        )
    return CaseSet(test.text("configFile"), config, tuple(cases))


def _expected(case: Fields) -> dict[str, Any] | None:
    if case.get("output") is None:
        return None
    output = case.inner("output")
    output.only(("outcome", "result", "error"), "`output`")
    outcome = output.choice("outcome", ("success", "failed"), "")
    if output.value and output.get("outcome") is None:
        case.report(Code.TEST, "output", "`output` has no `outcome`", "write {outcome: success, result: …}")
    if outcome == "success" and "error" in output.value:
        output.report(Code.TEST, "error", "a success has no `error`", "write {outcome: failed, error: …}")
    if outcome == "failed" and "result" in output.value:
        output.report(Code.TEST, "result", "a failure has no `result`", "write {outcome: success, result: …}")
    return output.value


def check_examples(flow: Fields) -> None:
    """Report what is wrong with `examples`."""
    for index, example in enumerate(flow.items("examples")):
        fields = Fields(example if example is not None else [], (*flow.at("examples"), index), flow.findings, "the example")
        fields.only(("name", "description", "input"), "an example")
        fields.required_text("name", "name: what it shows")
        fields.text("description")


def compare(expected: Any, actual: Any) -> list[str]:
    """What differs, one line each, beginning with the JSON path; empty when `actual` is as expected. At most 50 lines."""
    found: list[str] = []
    _compare(expected, actual, (), found)
    return found[:_MAX_DIFFERENCES]


def _compare(expected: Any, actual: Any, path: Path, found: list[str]) -> None:
    if len(found) >= _MAX_DIFFERENCES:
        return
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key, value in expected.items():
            if key in actual:
                _compare(value, actual[key], (*path, key), found)
            else:
                found.append(f"{paths.show((*path, key))}: missing, expected {_shown(value)}")
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for index, (value, other) in enumerate(zip(expected, actual, strict=True)):
            _compare(value, other, (*path, index), found)
    elif isinstance(expected, list) and isinstance(actual, list):
        found.append(f"{paths.show(path)}: {len(actual)} elements, expected {len(expected)}: got {_shown(actual)}")
    elif type(expected) is not type(actual) or normalised(expected) != normalised(actual):
        kinds = f" ({kind_of(actual)}, not {kind_of(expected)})" if type(expected) is not type(actual) else ""
        found.append(f"{paths.show(path)}: got {_shown(actual)}, expected {_shown(expected)}{kinds}")


def normalised(value: Any) -> Any:
    """`value` with every run id (UUIDv7) in a string replaced, since those differ from run to run."""
    return _RUN_ID.sub("<run id>", value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    text = dumps(value).decode()
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
