"""Tokens and cost, as the outputs of steps tell them: an object with `usage`, `cost` and perhaps `currency` among its members.

Invariant: most outputs are looked at as bytes only. What is no such number counts as nothing and disturbs nobody. Cost is kept in whole
billionths, so it adds up to the same in any order; that of different currencies is never added up. Sums never leave 63 bits.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

MAX_BYTES = 1024 * 1024
"""Larger outputs are not looked at."""
MAX_COST = 1_000_000
"""Of one step; more is taken for a mistake."""
MAX_TOKENS = 1_000_000_000
"""Of one step, likewise."""
MAX_CURRENCIES = 16
"""In one window; those after them are not counted."""
UNNAMED = ""
"""The currency of a cost that names none."""
BILLION = 1_000_000_000
_LARGEST = 2**63 - 1
_CURRENCY = re.compile("[A-Z]{3}")


class Told(NamedTuple):
    """By one output. `cost` in billionths of `currency`."""

    prompt: int
    completion: int
    total: int
    cost: int
    currency: str


class Usage(msgspec.Struct, array_like=True):
    """Of all outputs of a window. `costs` in billionths, by currency."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    costs: dict[str, int] = {}

    def count(self, told: Told) -> None:
        """One output more."""
        self._sum(told.prompt, told.completion, told.total)
        if told.cost:
            self._pay(told.currency, told.cost)

    def add(self, other: Usage) -> None:
        """Those of another partition, or of the next window."""
        self._sum(other.prompt_tokens, other.completion_tokens, other.total_tokens)
        for currency, cost in other.costs.items():
            self._pay(currency, cost)

    def _sum(self, prompt: int, completion: int, total: int) -> None:
        self.prompt_tokens = min(_LARGEST, self.prompt_tokens + prompt)
        self.completion_tokens = min(_LARGEST, self.completion_tokens + completion)
        self.total_tokens = min(_LARGEST, self.total_tokens + total)

    def _pay(self, currency: str, cost: int) -> None:
        if currency in self.costs or len(self.costs) < MAX_CURRENCIES:
            self.costs[currency] = min(_LARGEST, self.costs.get(currency, 0) + cost)


class _Output(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")
    cost: msgspec.Raw = msgspec.Raw(b"null")
    currency: msgspec.Raw = msgspec.Raw(b"null")


class _Tokens(msgspec.Struct):
    prompt_tokens: msgspec.Raw = msgspec.Raw(b"null")
    completion_tokens: msgspec.Raw = msgspec.Raw(b"null")
    total_tokens: msgspec.Raw = msgspec.Raw(b"null")
    input_tokens: msgspec.Raw = msgspec.Raw(b"null")
    output_tokens: msgspec.Raw = msgspec.Raw(b"null")


_output = msgspec.json.Decoder(_Output).decode
_tokens = msgspec.json.Decoder(_Tokens).decode


def usage_in(output: bytes) -> Told | None:
    """None for an output (JSON) that tells nothing."""
    if len(output) > MAX_BYTES or (b'"usage"' not in output and b'"cost"' not in output):
        return None
    try:
        found = _output(output)
    except (msgspec.MsgspecError, RecursionError):
        return None
    prompt, completion, total = _counted(found.usage)
    cost, currency = _cost(found.cost), _value(found.currency)
    if not (total or cost):
        return None
    known = isinstance(currency, str) and _CURRENCY.fullmatch(currency)
    return Told(prompt, completion, total, cost, str(currency) if known else UNNAMED)


def _counted(usage: msgspec.Raw) -> tuple[int, int, int]:
    try:
        said = _tokens(usage)
    except msgspec.MsgspecError:
        return 0, 0, 0
    prompt = _number(said.prompt_tokens) or _number(said.input_tokens)
    completion = _number(said.completion_tokens) or _number(said.output_tokens)
    return prompt, completion, _number(said.total_tokens) or prompt + completion


def _number(text: msgspec.Raw) -> int:
    value = _value(text)
    return value if isinstance(value, int) and 0 < value <= MAX_TOKENS else 0


def _cost(text: msgspec.Raw) -> int:
    value = _value(text)
    return round(value * BILLION) if isinstance(value, int | float) and 0 < value <= MAX_COST else 0


def _value(text: msgspec.Raw) -> object:
    """A number or a text (true is neither), or None."""
    try:
        return msgspec.json.decode(text, type=int | float | str | None)
    except msgspec.MsgspecError:
        return None
