"""JSON text (RFC 8259) → building calls, with places, without recursion. Strict: NaN, trailing commas and comments are refused."""

from __future__ import annotations

import json
import re

from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.limits import Limits
from stepmesh_orchestrator.core.flow.tree import TreeBuilder, Unreadable
from stepmesh_orchestrator.core.flow.yaml_reader import finite, integer

_TOKEN = re.compile(
    r"""[ \t\n\r]*(?:
      ([\[\]{},:])
    | ("(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+")
    | (-?(?:0|[1-9][0-9]*)(?![0-9.eE]))
    | (-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)
    | (true|false|null)(?![A-Za-z0-9_])
    )""",
    re.VERBOSE,
)
_END = re.compile(r"[ \t\n\r]*\Z")
_SPACE = re.compile(r"[ \t\n\r]*")
_NOT_FINITE = re.compile(r"-?(?:NaN|Infinity)")
_CONSTANTS = {"true": True, "false": False, "null": None}


def read_json(text: str, limits: Limits) -> TreeBuilder:
    """The tree of the one value in `text`. Raises `Unreadable`."""
    reader = _Reader(text, limits)
    reader.run()
    return reader.builder


class _Reader:
    """`expect` is what may come next: value, value or end (of list), key or end, key, colon, comma or end, nothing."""

    def __init__(self, text: str, limits: Limits) -> None:
        self.builder = TreeBuilder(limits)
        self._text = text
        self._limits = limits
        self._stack: list[str] = []  # the closing bracket of each open container
        self._expect = "value"

    def run(self) -> None:
        at = 0
        while not (self._expect == "nothing" and _END.match(self._text, at)):
            token = _TOKEN.match(self._text, at)
            if token is None or self._expect == "nothing":
                raise self._unexpected(at)
            kind = token.lastindex or 0
            self._take(kind, token[kind], token.start(kind))
            at = token.end()

    def _take(self, kind: int, token: str, at: int) -> None:
        if kind == 1:
            self._punctuation(token, at)
        elif self._expect in ("key", "key or }") and kind == 2:
            self.builder.key(self._string(token, at), at)
            self._expect = ":"
        elif self._expect in ("value", "value or ]"):
            self._scalar(kind, token, at)
            self._after_value()
        else:
            raise self._unexpected(at)

    def _scalar(self, kind: int, token: str, at: int) -> None:
        if kind == 2:
            self.builder.scalar(self._string(token, at), at)
        elif kind == 3:
            self.builder.scalar(integer(token, at, self._limits), at)
        elif kind == 4:
            self.builder.scalar(finite(token, at), at)
        else:
            self.builder.scalar(_CONSTANTS[token], at)

    def _punctuation(self, token: str, at: int) -> None:
        expect = self._expect
        if token in "[{" and expect in ("value", "value or ]"):
            (self.builder.open_list if token == "[" else self.builder.open_object)(at)
            self._stack.append("]" if token == "[" else "}")
            self._expect = "value or ]" if token == "[" else "key or }"
        elif token == ":" and expect == ":":
            self._expect = "value"
        elif token == "," and expect == ", or end":
            self._expect = "value" if self._stack[-1] == "]" else "key"
        elif self._stack and token == self._stack[-1] and expect in (", or end", f"value or {token}", f"key or {token}"):
            self._stack.pop()
            self.builder.close()
            self._after_value()
        else:
            raise self._unexpected(at)

    def _after_value(self) -> None:
        self._expect = ", or end" if self._stack else "nothing"

    def _string(self, token: str, at: int) -> str:
        if "\\" not in token:
            return token[1:-1]
        value: str = json.loads(token)
        try:
            value.encode()
        except UnicodeEncodeError as problem:
            raise Unreadable(
                Code.ENCODING, "a lone surrogate is not a character", at, "write the whole pair, or the character itself"
            ) from problem
        return value

    def _unexpected(self, at: int) -> Unreadable:
        space = _SPACE.match(self._text, at)
        at = space.end() if space else at
        if self._expect != "nothing" and (bad := _NOT_FINITE.match(self._text, at)):
            hint = "JSON has no infinity and no NaN: use null or a string"
            return Unreadable(Code.NUMBER, f"{bad[0]} is not a JSON number", at, hint)
        found = repr(self._text[at]) if at < len(self._text) else "the end of the text"
        wanted = self._expect.replace("end", self._stack[-1]) if self._stack else self._expect
        return Unreadable(Code.SYNTAX, f"not JSON: expected {wanted}, found {found}", at)
