"""A flow document as text → plain values with places. The only door for documents from outside.

Invariant: a `Document` holds nothing but JSON values within the limits; everything else is one
`FlowInvalid` that names the line and column. Must not know what a flow is.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import Any

from stepmesh_orchestrator.core.flow import paths
from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostic, Diagnostics, FlowInvalid
from stepmesh_orchestrator.core.flow.json_reader import read_json
from stepmesh_orchestrator.core.flow.limits import LIMITS, Limits
from stepmesh_orchestrator.core.flow.paths import Path
from stepmesh_orchestrator.core.flow.tree import Mark, TreeBuilder, Unreadable, offset_of
from stepmesh_orchestrator.core.flow.yaml_reader import read_yaml, too_long


class Document:
    """Plain values (`value`: dict in source order, list, str, int, float, bool, None) and where each stands in `text`."""

    def __init__(self, value: Any, *, name: str = "<flow>", text: str = "", marks: Mark = None) -> None:
        self.value = value
        self.name = name
        self.text = text
        self._marks = marks

    @cached_property
    def _lines(self) -> list[int]:
        return line_starts(self.text)

    def position(self, path: Path) -> tuple[int, int] | None:
        """Line and column, both from 1, of the part at `path` (of its key, in an object); of the nearest part around it when
        there is none. None for a document that did not come from text."""
        return None if self._marks is None else place(self._lines, offset_of(self._marks, path))


def load(text: bytes | str, *, name: str = "<flow>", limits: Limits = LIMITS) -> Document:
    """Read YAML or JSON. Raises `FlowInvalid` with one diagnostic: SM-2001 … SM-2007, line and column."""
    source = _decoded(text, name, limits)
    try:
        builder = _read(source, limits)
    except Unreadable as problem:
        raise _invalid(problem, source, name) from problem
    return Document(builder.root, name=name, text=source, marks=builder.marks)


def from_value(value: Any, *, name: str = "<flow>", limits: Limits = LIMITS) -> Document:
    """A document made in memory, held to the same rules as text. Raises `FlowInvalid`; the diagnostic has a path, no line."""
    checked = TreeBuilder(limits)
    here: list[str | int] = []
    try:
        _walk(value, checked, here, limits)
    except Unreadable as problem:
        found = Diagnostic(problem.code.code, problem.code.level, problem.message, paths.show(tuple(here)), hint=problem.hint)
        raise FlowInvalid(f"{name}: {problem.message}", Diagnostics([found]), code=found.code, hint=found.hint) from problem
    return Document(checked.root, name=name)


def line_starts(text: str) -> list[int]:
    """The offset of the first character of each line."""
    starts = [0]
    at = text.find("\n")
    while at >= 0:
        starts.append(at + 1)
        at = text.find("\n", at + 1)
    return starts


def place(starts: list[int], offset: int) -> tuple[int, int]:
    """Line and column, both from 1."""
    line = bisect_right(starts, offset)
    return line, offset - starts[line - 1] + 1


def _decoded(text: bytes | str, name: str, limits: Limits) -> str:
    size = len(text) if isinstance(text, bytes) else len(text.encode(errors="surrogatepass"))
    if size > limits.document_bytes:
        problem = Unreadable(
            Code.LIMIT, f"{size:,} bytes, more than {limits.document_bytes:,}", 0, "split the flow, or store the data as a blob"
        )
        raise _invalid(problem, "", name)
    try:
        source = text.decode() if isinstance(text, bytes) else text.encode().decode()
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode()
        problem = Unreadable(Code.ENCODING, f"not UTF-8: byte 0x{error.object[error.start]:02x}", len(before), "save the file as UTF-8")
        raise _invalid(problem, before, name) from error
    except UnicodeEncodeError as error:
        raise _invalid(Unreadable(Code.ENCODING, "a lone surrogate is not a character", error.start), error.object, name) from error
    source = source.removeprefix("\ufeff")
    if (at := source.find("\0")) >= 0:
        raise _invalid(Unreadable(Code.ENCODING, "the character U+0000 may not stand in a document", at), source, name)
    return source


def _read(source: str, limits: Limits) -> TreeBuilder:
    """JSON when it looks like it and is; YAML flow style otherwise, with JSON's message when that fails as well."""
    if not source.lstrip(" \t\r\n").startswith(("{", "[", '"')):
        return read_yaml(source, limits)
    try:
        return read_json(source, limits)
    except Unreadable as problem:
        if problem.code is not Code.SYNTAX:
            raise
        try:
            return read_yaml(source, limits)
        except Unreadable as other:
            raise (problem if other.code is Code.SYNTAX else other) from None


def _invalid(problem: Unreadable, source: str, name: str) -> FlowInvalid:
    line, column = place(line_starts(source), problem.offset)
    found = Diagnostic(problem.code.code, problem.code.level, problem.message, "$", line, column, problem.hint)
    return FlowInvalid(f"{name}:{line}:{column}: {problem.message}", Diagnostics([found]), code=found.code, hint=problem.hint)


def _walk(value: Any, builder: TreeBuilder, here: list[str | int], limits: Limits) -> None:
    if isinstance(value, dict):
        builder.open_object(0)
        for name, member in value.items():
            here.append(_key(name))
            builder.key(name, 0)
            _walk(member, builder, here, limits)
            here.pop()
        builder.close()
    elif isinstance(value, list):
        builder.open_list(0)
        for index, member in enumerate(value):
            here.append(index)
            _walk(member, builder, here, limits)
            here.pop()
        builder.close()
    else:
        builder.scalar(_leaf(value, limits), 0)


def _key(name: Any) -> str:
    if not isinstance(name, str):
        raise Unreadable(Code.KEY_TYPE, f"the key {str(name)[:60]} is not a string", 0)
    return _text(name)


def _leaf(value: Any, limits: Limits) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise Unreadable(Code.NUMBER, f"{value} is not a JSON number", 0, "JSON has no infinity and no NaN: use null or a string")
    if isinstance(value, int) and too_long(value, limits.integer_digits):
        raise Unreadable(Code.NUMBER, f"an integer of more than {limits.integer_digits:,} digits", 0, "write it as a string")
    if value is not None and not isinstance(value, bool | int | float):
        raise Unreadable(Code.TYPE, f"{type(value).__name__} is not a JSON value", 0)
    return value


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        raise Unreadable(Code.ENCODING, "a lone surrogate is not a character", 0) from problem
    return value
