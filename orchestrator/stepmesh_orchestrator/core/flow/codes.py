"""Every code that a flow document can earn, with its level, in one table. A released code never changes its meaning."""

from __future__ import annotations

from enum import Enum

from stepmesh_orchestrator.core.flow.diagnostics import Level


class Code(Enum):
    """`value` = (code, level). The member's docstring-like comment says what is wrong in general."""

    SYNTAX = ("SM-2001", Level.FATAL)  # not YAML, not JSON
    ENCODING = ("SM-2002", Level.FATAL)  # not UTF-8, or a character that may not stand in a document
    DUPLICATE_KEY = ("SM-2003", Level.FATAL)  # one key twice in one object
    KEY_TYPE = ("SM-2004", Level.FATAL)  # a key that is not a string
    YAML_FEATURE = ("SM-2005", Level.FATAL)  # tags, merge keys, several documents
    NUMBER = ("SM-2006", Level.FATAL)  # NaN, infinity, too many digits
    LIMIT = ("SM-2007", Level.FATAL)  # too large, too deep, too many
    TYPE = ("SM-2010", Level.ERROR)  # another kind of value than the key wants
    UNKNOWN_KEY = ("SM-2011", Level.WARNING)  # a key that nobody reads
    MISSING = ("SM-2012", Level.ERROR)  # a key that must be there
    VALUE = ("SM-2013", Level.ERROR)  # right kind, not an allowed value
    UNUSED = ("SM-2014", Level.WARNING)  # has no effect here
    LABEL = ("SM-2015", Level.WARNING)  # no name or description
    DUPLICATE_STEP = ("SM-2020", Level.FATAL)
    FORWARD_REFERENCE = ("SM-2021", Level.FATAL)
    SELF_REFERENCE = ("SM-2022", Level.FATAL)
    UNKNOWN_STEP = ("SM-2023", Level.FATAL)
    PATH = ("SM-2024", Level.ERROR)  # not in the path grammar
    EXPRESSION = ("SM-2025", Level.ERROR)  # a form of expression that does not exist
    MISSPELLED = ("SM-2026", Level.WARNING)  # a plain key that looks like an expression
    UNKNOWN_VARIABLE = ("SM-2027", Level.WARNING)  # referred to, but not declared
    SCHEMA = ("SM-2030", Level.ERROR)  # not a JSON Schema
    SCHEMA_FLAT = ("SM-2031", Level.ERROR)  # `schemas` without `properties`
    SCHEMA_REMOTE = ("SM-2032", Level.ERROR)  # a reference out of the document
    OVERRIDE = ("SM-2040", Level.ERROR)
    TEST = ("SM-2050", Level.ERROR)  # a test case that cannot be run

    @property
    def code(self) -> str:
        """`SM-20xx`."""
        return self.value[0]

    @property
    def level(self) -> Level:
        """How bad it is, without `--strict`."""
        return self.value[1]
