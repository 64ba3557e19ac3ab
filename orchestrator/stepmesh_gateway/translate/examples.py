"""Inputs to try a flow with, read out of its document: its examples, then its test cases."""

from __future__ import annotations

import msgspec


class Example(msgspec.Struct, frozen=True):
    """`stepflow.v1.ExampleInput`. `input`: JSON."""

    name: str = ""
    description: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"null")


class _Test(msgspec.Struct, frozen=True):
    cases: list[Example] | None = None


class _Flow(msgspec.Struct, frozen=True):
    examples: list[Example] | None = None
    test: _Test | None = None


_flow = msgspec.json.Decoder(_Flow).decode


def all_examples(document: bytes) -> list[Example]:
    """Of a stored flow. A blob that is used as a flow may never have been checked: what is none there is left out."""
    try:
        flow = _flow(document)
    except msgspec.ValidationError:
        return []
    cases = None if flow.test is None else flow.test.cases
    return [*(flow.examples or ()), *(cases or ())]
