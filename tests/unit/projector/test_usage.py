"""What outputs tell of tokens and cost, and that sums are exact, bounded, and kept by currency."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_projector.summary import Tokens, summaries
from stepmesh_projector.usage import BILLION, MAX_BYTES, MAX_COST, MAX_CURRENCIES, MAX_TOKENS, Told, Usage, usage_in
from stepmesh_projector.windows import Counts, Label, Place, Window, decode_window, encode_window


def told(**output: Any) -> Told | None:
    return usage_in(msgspec.json.encode(output))


def test_usage_as_servers_give_it() -> None:
    openai = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 1}}
    assert told(content="hi", usage=openai) == Told(3, 4, 9, 0, "")
    assert told(usage={"input_tokens": 3, "output_tokens": 4}) == Told(3, 4, 7, 0, "")
    assert told(usage={"total_tokens": 5}) == Told(0, 0, 5, 0, "")


def test_cost_with_and_without_a_currency() -> None:
    assert told(cost=0.25, currency="EUR") == Told(0, 0, 0, BILLION // 4, "EUR")
    assert told(cost=2) == Told(0, 0, 0, 2 * BILLION, "")
    for wrong in ("euro", "eur", "EURO", 3, None, ["EUR"]):
        assert told(cost=2, currency=wrong) == Told(0, 0, 0, 2 * BILLION, "")


@pytest.mark.parametrize(
    "output",
    [
        b"null",
        b"7",
        b'"usage"',
        b'["usage","cost"]',
        b'{"usage":null,"cost":null}',
        b'{"usage":[1],"cost":"2"}',
        b'{"usage":{},"cost":true}',
        b'{"cost":-1}',
        b'{"cost":1e999}',
        b'{"usage":{"prompt_tokens":1.5,"completion_tokens":-1,"total_tokens":true}}',
        b'{"cost":{"usage":1}}',
        b'{"usage":{"prompt_tokens":' + b"9" * 5_000 + b"}}",
        b'{"usage":',
        b'{"inner":{"usage":{"total_tokens":1}}}',
        b'{"cost":' + b"[" * 100_000,
    ],
)
def test_what_is_no_such_number_counts_as_nothing(output: bytes) -> None:
    assert usage_in(output) is None


def test_limits_one_under_and_one_over() -> None:
    assert told(usage={"total_tokens": MAX_TOKENS}) == Told(0, 0, MAX_TOKENS, 0, "")
    assert told(usage={"total_tokens": MAX_TOKENS + 1}) is None
    assert told(cost=MAX_COST) == Told(0, 0, 0, MAX_COST * BILLION, "")
    assert told(cost=MAX_COST + 1) is None
    bare = len(msgspec.json.encode({"cost": 1, "text": ""}))
    assert told(cost=1, text="x" * (MAX_BYTES - bare)) is not None
    assert told(cost=1, text="x" * (MAX_BYTES - bare + 1)) is None


def test_sums_are_exact_by_currency_and_never_too_large_for_their_column() -> None:
    usage, other = Usage(), Usage()
    for _ in range(10):
        usage.count(Told(1, 2, 3, round(0.1 * BILLION), "USD"))
    other.count(Told(0, 0, 0, BILLION, "EUR"))
    usage.add(other)
    assert usage == Usage(10, 20, 30, {"USD": BILLION, "EUR": BILLION})
    usage.add(Usage(2**63 - 11, 2**63 - 1, 0, {"USD": 2**63 - 1}))
    assert usage == Usage(2**63 - 1, 2**63 - 1, 30, {"USD": 2**63 - 1, "EUR": BILLION})


def test_one_currency_too_many_is_not_counted() -> None:
    usage = Usage()
    for number in range(MAX_CURRENCIES + 1):
        usage.count(Told(0, 0, 0, 1, f"AA{chr(65 + number)}"))
    usage.count(Told(0, 0, 0, 1, "AAA"))
    assert len(usage.costs) == MAX_CURRENCIES
    assert usage.costs["AAA"] == 2


def test_it_is_kept_with_a_window_and_older_windows_have_none() -> None:
    window = Window(3, Counts(succeeded=1))
    window.usage.count(Told(1, 2, 3, 4, "USD"))
    encoded = encode_window(window)
    assert decode_window(encoded).usage == Usage(1, 2, 3, {"USD": 4})
    older = [decode_window(msgspec.msgpack.encode(msgspec.msgpack.decode(encoded)[:4])) for _ in range(2)]
    older[0].usage.count(Told(1, 1, 1, 1, ""))
    assert (older[0].counts, older[1].usage) == (Counts(succeeded=1), Usage())


def test_a_summary_has_tokens_and_cost_of_all_its_windows() -> None:
    windows = []
    for start_ms, currency in ((0, "USD"), (10, "USD"), (20, "EUR"), (30, "")):
        window = Window()
        window.usage.count(Told(1, 2, 3, BILLION // 2, currency))
        windows.append((Place(Label(Namespace("n"), "pool", "gpu"), start_ms), window))
    (found,) = summaries(windows)
    assert found.tokens == Tokens(4, 8, 12)
    assert found.cost == {"": 0.5, "EUR": 0.5, "USD": 1.0}
