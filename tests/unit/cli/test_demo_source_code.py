"""What the demo measures in a file: known texts with counted answers."""

from __future__ import annotations

import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from stepmesh_cli.demo.source_code import documentation, outline, shape, size


def text(source: str) -> bytes:
    return textwrap.dedent(source).lstrip("\n").encode()


SAMPLE = text('''
    """A module.

    With more."""
    import os, sys.path
    from collections import abc
    from . import sibling

    # a comment
    class Thing:
        def long(self, a, b=1, *, c):
            """Doc."""
            if a and b or c:
                for x in a:  # not a comment line
                    pass
            return a

        def _hidden(self):
            return 1

    async def short():
        return [x for x in y if x]
''')


def test_outline_counts_and_lists_the_longest_functions_first() -> None:
    found = outline(SAMPLE, 2)
    assert [span["name"] for span in found["functions"]] == ["long", "_hidden"]
    assert (found["functions"][0]["first"], found["functions"][0]["last"]) == (10, 15)
    assert (found["total_functions"], found["classes"]) == (3, 1)
    assert found["imports"] == ["collections", "os", "sys"]
    assert found["decisions"] == 5  # if, two boolean operators, for, a comprehension


def test_the_limit_bounds_the_list_only() -> None:
    assert len(outline(SAMPLE, 1)["functions"]) == 1
    assert len(outline(SAMPLE, 3)["functions"]) == 3
    assert outline(SAMPLE, 0)["total_functions"] == 3


@pytest.mark.parametrize("broken", [b"def (:\n", b"print 'old'\n", b"x = (\n", b"a\0b"])
def test_what_does_not_parse_is_an_error_that_a_component_can_tell(broken: bytes) -> None:
    with pytest.raises((SyntaxError, ValueError)):
        outline(broken, 5)


def test_size_tells_lines_apart() -> None:
    found = size(SAMPLE)
    assert found["lines"] == 21
    assert found["comments"] == 1
    assert found["blank"] == 4
    assert found["code"] == 16
    assert found["bytes"] == len(SAMPLE)


def test_a_file_that_the_tokenizer_rejects_still_has_a_size() -> None:
    assert size(b"# one\nx = (\n") == {"lines": 2, "code": 1, "comments": 1, "blank": 0, "bytes": 12, "longest": 5}
    assert size(b"")["lines"] == 0


def test_documentation_looks_at_what_is_public() -> None:
    found = documentation(SAMPLE)
    assert (found["public"], found["documented"]) == (4, 2)  # the module, Thing, long, short
    assert found["summary"] == "A module."
    assert found["words"] == 5


def test_shape_of_a_method_of_its_own() -> None:
    span = outline(SAMPLE, 1)["functions"][0]
    assert shape(SAMPLE, span) == {"name": "long", "lines": 6, "complexity": 5, "depth": 2, "arguments": 4}


def test_an_elif_is_no_deeper_than_its_if() -> None:
    source = text("""
        def f(a):
            if a == 1:
                return 1
            elif a == 2:
                return 2
            elif a == 3:
                return 3
            else:
                if a:
                    return 4
        """)
    found = shape(source, {"name": "f", "first": 1, "last": 10})
    assert found["depth"] == 1  # an else that holds only an if is written the same in the tree
    assert found["complexity"] == 5


def test_a_string_that_begins_at_the_margin_does_not_confuse_an_indented_function() -> None:
    source = b'class C:\n    def f(self):\n        return """\nat the margin\n"""\n'
    assert shape(source, outline(source, 1)["functions"][0])["lines"] == 4


def test_lines_without_a_function_are_an_error() -> None:
    with pytest.raises(ValueError, match="hold no function"):
        shape(b"x = 1\n", {"name": "x", "first": 1, "last": 1})


def test_a_decorated_function_begins_at_its_decorator() -> None:
    source = b"@cache\n@other(1)\ndef f():\n    return 1\n"
    span = outline(source, 1)["functions"][0]
    assert (span["first"], span["last"]) == (1, 4)
    assert shape(source, span)["name"] == "f"


def test_threads_may_parse_at_once() -> None:
    source = b"x = " + b"[" * 60 + b"]" * 60 + b"\n" + b"def f(a):\n    return a + 1\n" * 200
    with ThreadPoolExecutor(8) as threads:
        counts = {found["total_functions"] for found in threads.map(lambda _: outline(source, 1), range(40))}
    assert counts == {200}
