"""YAML text → building calls: libyaml's events with an own, small constructor.

Scalars follow the YAML 1.2 core schema: `no`, `yes`, `on` are strings, `010` is ten, octal is `0o10`. Tags, merge keys,
further documents and keys that are not strings are refused. No Python object is ever built from a tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.limits import Limits
from stepmesh_orchestrator.core.flow.tree import TreeBuilder, Unreadable

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_STRING_TAGS = ("!", "tag:yaml.org,2002:str")


def read_yaml(text: str, limits: Limits) -> TreeBuilder:
    """The tree of the one document in `text`. Raises `Unreadable`."""
    if bad := _UNPRINTABLE.search(text):
        raise Unreadable(Code.ENCODING, f"the character U+{ord(bad[0]):04X} may not stand in a document", bad.start())
    builder = TreeBuilder(limits)
    try:
        _build(text, builder, limits)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        what = ", ".join(filter(None, (getattr(problem, "context", None), getattr(problem, "problem", None) or str(problem))))
        offset = mark.index if mark else 0
        raise Unreadable(Code.SYNTAX, f"not YAML: {what}", offset, _advice(text, offset)) from problem
    return builder


def _advice(text: str, offset: int) -> str:
    line = text[text.rfind("\n", 0, offset) + 1 :].split("\n", 1)[0]
    return "indent with spaces, not tabs" if "\t" in line[: len(line) - len(line.lstrip())] else "check indentation, colons and quotes"


def _build(text: str, builder: TreeBuilder, limits: Limits) -> None:
    documents = 0
    events: Iterator[Any] = yaml.parse(text, Loader=yaml.CSafeLoader)
    for event in events:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            _scalar(event, builder, limits)
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            builder.close()
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            _container(event, builder)
        elif kind is yaml.AliasEvent:
            _no_key(event, builder)
            builder.alias(event.anchor, event.start_mark.index)
        elif kind is yaml.DocumentStartEvent:
            documents += 1
            if documents > 1:
                raise Unreadable(Code.YAML_FEATURE, "a second document begins here", event.start_mark.index, "one flow per file")


def _container(event: Any, builder: TreeBuilder) -> None:
    _no_key(event, builder)
    mapping = isinstance(event, yaml.MappingStartEvent)
    if event.tag not in (None, "!", f"tag:yaml.org,2002:{'map' if mapping else 'seq'}"):
        _refuse_tag(event)
    (builder.open_object if mapping else builder.open_list)(event.start_mark.index, event.anchor)


def _no_key(event: Any, builder: TreeBuilder) -> None:
    if builder.wants_key:
        raise Unreadable(Code.KEY_TYPE, "a key must be a plain string", event.start_mark.index, 'write it as "text"')


def _scalar(event: Any, builder: TreeBuilder, limits: Limits) -> None:
    text, offset = event.value, event.start_mark.index
    plain = event.implicit[0]
    if event.tag is not None and event.tag not in _STRING_TAGS:
        _refuse_tag(event)
    value = _resolved(text, offset, limits) if plain and event.tag is None else text
    if not builder.wants_key:
        builder.scalar(value, offset, event.anchor)
    elif plain and text == "<<":
        raise Unreadable(Code.YAML_FEATURE, "merge keys (`<<`) are not part of YAML 1.2", offset, "write the members out")
    elif not isinstance(value, str):
        raise Unreadable(Code.KEY_TYPE, f"the key {text or 'null'} is not a string", offset, f'write it as "{text}"')
    else:
        builder.key(value, offset, event.anchor)


def _refuse_tag(event: Any) -> None:
    hint = "write the value plainly; nothing is ever built from a tag"
    raise Unreadable(Code.YAML_FEATURE, f"the tag {event.tag[:60]!r} is not supported", event.start_mark.index, hint)


def _resolved(text: str, offset: int, limits: Limits) -> Any:
    """A plain scalar's value by the YAML 1.2 core schema, section 10.3.2."""
    first = text[:1]
    if first not in "-+.0123456789~nNtTfF":  # "" is in every string
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return integer(text, offset, limits)
    if _BASED.fullmatch(text):
        return _within(int(text[2:], 8 if text[1] == "o" else 16), offset, limits)
    if _FLOAT.fullmatch(text):
        return finite(text, offset)
    if _NOT_FINITE.fullmatch(text):
        raise Unreadable(Code.NUMBER, f"{text} is not a JSON number", offset, "JSON has no infinity and no NaN: use null or a string")
    return text


def integer(text: str, offset: int, limits: Limits) -> int:
    """An exact integer. Raises `Unreadable` above the digit limit."""
    if len(text) - (text[0] in "+-") > limits.integer_digits:
        raise Unreadable(Code.NUMBER, f"an integer of more than {limits.integer_digits:,} digits", offset, "write it as a string")
    return int(text)


def _within(value: int, offset: int, limits: Limits) -> int:
    if too_long(value, limits.integer_digits):
        raise Unreadable(Code.NUMBER, f"an integer of more than {limits.integer_digits:,} digits", offset, "write it as a string")
    return value


def too_long(value: int, digits: int) -> bool:
    """Whether an integer has more than `digits` decimal digits; cheap for small ones."""
    return value.bit_length() > 3 * digits and abs(value) >= 10**digits


def finite(text: str, offset: int) -> float:
    """A double. Raises `Unreadable` when the text is beyond its range."""
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise Unreadable(Code.NUMBER, f"the number {text[:60]} is beyond the range of a double", offset, "write it as a string")
    return value
