"""Rewrites what a flow file expects of its test cases, in place.

Invariant: nothing but the `output` of the cases that are named changes, to the byte: comments, quotes and order stay. That is checked
by reading the new text before it is written; what cannot be done so (a shared anchor) is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stepmesh_cli.errors import CommandError
from stepmesh_orchestrator.core.flow.diagnostics import FlowInvalid
from stepmesh_orchestrator.core.flow.document import load
from stepmesh_orchestrator.core.flow.jsontext import dumps
from stepmesh_orchestrator.core.flow.paths import Path as Place

Node = Any


class _Dumper(yaml.SafeDumper):
    """Text of several lines is quoted on one."""

    def ignore_aliases(self, data: Any) -> bool:
        """Equal values are written out each time."""
        return True


_LIKE_A_NUMBER = tuple("+-.0123456789")
"""Quoted: PyYAML quotes by YAML 1.1, where for example `0E0` is no number."""


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if "\n" in value or value[:1] in _LIKE_A_NUMBER else None)


_Dumper.add_representer(str, _text)


def update_file(path: Path, expectations: Mapping[Place, dict[str, Any]]) -> None:
    """Give each case (by its place, `("test", "cases", 2)`) a new expectation. Raises `CommandError`, and leaves the file as it was."""
    text = path.read_text(encoding="utf-8")
    changed = updated(text, expectations, as_json=path.suffix == ".json")
    _check(path, text, changed, expectations)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(changed, encoding="utf-8")
    fresh.chmod(os.stat(path).st_mode & 0o777)
    fresh.replace(path)


def updated(text: str, expectations: Mapping[Place, dict[str, Any]], *, as_json: bool = False) -> str:
    """`text` with other expectations."""
    root = yaml.compose(text, yaml.SafeLoader)
    edits = [_edit(text, _at(root, place), value, as_json) for place, value in expectations.items()]
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _check(path: Path, before: str, after: str, expectations: Mapping[Place, dict[str, Any]]) -> None:
    wanted = load(before).value
    for place, value in expectations.items():
        case = wanted
        for part in place:
            case = case[part]
        case["output"] = value
    try:
        good = dumps(load(after).value) == dumps(wanted)
    except FlowInvalid:
        good = False
    if not good:
        hint = "write them by hand: it may share values by anchors"
        raise CommandError(f"the expectations of {path} cannot be changed in place", hint=hint)


def _at(node: Node, place: Sequence[str | int]) -> Node:
    for part in place:
        node = node.value[part] if isinstance(part, int) else _member(node, part)
    return node


def _member(node: Node, name: str) -> Node | None:
    return next((value for key, value in node.value if key.value == name), None)


def _edit(text: str, case: Node, value: dict[str, Any], as_json: bool) -> tuple[int, int, str]:
    """(start, end, new text): the output's place, or a new entry at the end of the case."""
    output = _member(case, "output")
    if output is not None:
        column = case.value[0][0].start_mark.column
        return output.start_mark.index, _end(output, text), _written(value, output.flow_style is not False, column + 2, as_json)
    end = _end(case.value[-1][1], text)
    if case.flow_style:
        name = '"output"' if as_json else "output"
        return end, end, f", {name}: {_written(value, True, 0, as_json)}"
    column = case.value[0][0].start_mark.column
    return end, end, f"\n{' ' * column}output:\n{' ' * (column + 2)}{_written(value, False, column + 2, as_json)}"


def _end(node: Node, text: str) -> int:
    """Where the node's text ends. A block's own mark lies behind the blanks and comments that follow it."""
    if not isinstance(node, yaml.ScalarNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last, text)
    start, end = int(node.start_mark.index), int(node.end_mark.index)
    return start + len(text[start:end].rstrip())


def _written(value: Any, in_flow: bool, column: int, as_json: bool) -> str:
    """YAML of `value`; the lines after the first are indented by `column`."""
    if as_json:
        return json.dumps(value, ensure_ascii=False)
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=in_flow, sort_keys=False, allow_unicode=True, width=10**9)
    return text.rstrip("\n").replace("\n", "\n" + " " * column)
