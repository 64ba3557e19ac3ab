"""What one flow document may cost. Refused at the edge with a reason, so that nothing of it is discovered at replay.

The figures are generous for people and small for a machine: a document at every limit at once still
compiles in seconds and within a few hundred MB. This file must know nothing but numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

PAYLOAD_DEPTH = 200
"""Nesting of a value from outside (input, output, variables). Well below the depth at which any JSON library gives up."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds, inclusive: a document at a bound is accepted, one above is refused."""

    document_bytes: int = 8 * 1024 * 1024  # of the text as given, and of the compact JSON that is stored
    expanded_characters: int = 16 * 1024 * 1024  # of scalars and keys after aliases are expanded
    nodes: int = 1_000_000  # values and keys after aliases are expanded
    depth: int = 100  # lists and objects inside each other
    integer_digits: int = 4_300  # Python's own limit for int ⇄ text
    steps: int = 10_000
    complexity: int = 20_000_000  # sum over conditional expressions of (steps mentioned x parts): what re-evaluation costs at most


LIMITS = Limits()
