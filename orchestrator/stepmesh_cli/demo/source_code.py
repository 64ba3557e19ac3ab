"""What can be learned from one Python file: its outline, its size, its documentation, the shape of each function.

Pure functions from text to small JSON values; they know nothing of workers. Complexity is McCabe's: one plus the number of
decisions ("A Complexity Measure", IEEE TSE 1976).
"""

from __future__ import annotations

import ast
import io
import threading
import tokenize
import warnings
from collections.abc import Iterator
from typing import TypedDict

_DECISIONS = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case, ast.Assert)
_NESTING = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.With, ast.AsyncWith, ast.Match)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DOCUMENTED = (*_FUNCTIONS, ast.ClassDef)


_one_at_a_time = threading.Lock()
"""CPython's parser counts its recursion per interpreter: in several threads at once it may raise a SystemError (cpython issue 106905).
Warning filters are of the process, too."""


class Span(TypedDict):
    """A function in a file; lines count from 1, both ends belong to it."""

    name: str
    first: int
    last: int


class Outline(TypedDict):
    """What the syntax tree of a file holds. `decisions` plus one is the complexity of the whole file."""

    parsed: bool
    functions: list[Span]
    total_functions: int
    classes: int
    imports: list[str]
    decisions: int


class Size(TypedDict):
    """Lines by kind, and bytes."""

    lines: int
    code: int
    comments: int
    blank: int
    bytes: int
    longest: int


class Documentation(TypedDict):
    """Of public classes and functions and the module itself: how many there are and how many have a docstring; words in all."""

    public: int
    documented: int
    words: int
    summary: str


class Shape(TypedDict):
    """One function. `depth`: levels of nested blocks."""

    name: str
    lines: int
    complexity: int
    depth: int
    arguments: int


def tree_of(text: bytes) -> ast.Module:
    """Raises `SyntaxError` or `ValueError`."""
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        return ast.parse(text)


def outline(text: bytes, limit: int) -> Outline:
    """With the `limit` longest functions. Raises `SyntaxError` or `ValueError`."""
    tree = tree_of(text)
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, _FUNCTIONS)]
    longest = sorted(functions, key=lambda node: (node.lineno - (node.end_lineno or node.lineno), node.lineno))[:limit]
    return {
        "parsed": True,
        "functions": [{"name": node.name, "first": _first_line(node), "last": node.end_lineno or node.lineno} for node in longest],
        "total_functions": len(functions),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "imports": sorted(set(_imports(nodes))),
        "decisions": _decisions(nodes),
    }


def size(text: bytes) -> Size:
    """Lines by what is on them; a file that the tokenizer rejects still has its lines counted, with fewer told to be comments."""
    lines = text.splitlines()
    blank = sum(not line.strip() for line in lines)
    comments = _comment_lines(text)
    return {
        "lines": len(lines),
        "code": len(lines) - blank - comments,
        "comments": comments,
        "blank": blank,
        "bytes": len(text),
        "longest": max(map(len, lines), default=0),
    }


def documentation(text: bytes) -> Documentation:
    """Raises `SyntaxError` or `ValueError`."""
    tree = tree_of(text)
    things = [node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED) and not node.name.startswith("_")]
    docs = [ast.get_docstring(node) or "" for node in (tree, *things)]
    lead = docs[0].strip().splitlines()
    return {
        "public": len(docs),
        "documented": sum(bool(doc.strip()) for doc in docs),
        "words": sum(len(doc.split()) for doc in docs),
        "summary": lead[0][:160] if lead else "",
    }


def shape(text: bytes, span: Span) -> Shape:
    """Raises `SyntaxError` or `ValueError` when the lines of the span hold no function."""
    rows = text.splitlines(keepends=True)[span["first"] - 1 : span["last"]]  # of bytes: of text a form feed would end a line, too
    lines = [row.decode("utf-8", "replace") for row in rows]
    indented = lines[0][:1] in " \t"  # not dedented: strings over several lines may begin at the margin
    body = tree_of(("if 1:\n" * indented + "".join(lines)).encode()).body
    node = body[0].body[0] if indented and isinstance(body[0], ast.If) else body[0]
    if not isinstance(node, _FUNCTIONS):
        raise ValueError(f"lines {span['first']} to {span['last']} hold no function")
    arguments = node.args
    return {
        "name": span["name"],
        "lines": len(lines),
        "complexity": 1 + _decisions(ast.walk(node)),
        "depth": _depth(node),
        "arguments": len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs),
    }


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([node.lineno, *(one.lineno for one in node.decorator_list)])


def _decisions(nodes: Iterator[ast.AST] | list[ast.AST]) -> int:
    return sum(len(node.values) - 1 if isinstance(node, ast.BoolOp) else isinstance(node, _DECISIONS) for node in nodes)


def _depth(node: ast.AST) -> int:
    """Levels of blocks below the node; an `elif` is as deep as its `if`."""
    chained = node.orelse if isinstance(node, ast.If) and len(node.orelse) == 1 else []
    return max(
        (
            _depth(child) + (isinstance(child, _NESTING) and not (child in chained and isinstance(child, ast.If)))
            for child in ast.iter_child_nodes(node)
        ),
        default=0,
    )


def _imports(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _comment_lines(text: bytes) -> int:
    lines = text.splitlines()
    found: set[int] = set()
    try:
        for token in tokenize.tokenize(io.BytesIO(text).readline):
            row = token.start[0]
            if token.type == tokenize.COMMENT and lines[row - 1].lstrip().startswith(b"#"):
                found.add(row)
    except (tokenize.TokenError, SyntaxError):  # what came before counts
        pass
    return len(found)
