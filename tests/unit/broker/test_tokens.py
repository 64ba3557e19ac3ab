"""Tokens name a wait, fit into an address line, and cannot be made by those who do not know the secret."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.letters import Waiter
from stepmesh_broker.protocol.tokens import PREFIX, is_genuine, read_token, token_of

WAITER = Waiter(RunId("01900000-0000-7000-8000-000000000001"), 0, 3, 1, "", "01900000-0000-7000-8000-000000000002")


@given(st.integers(0, 2**31), st.integers(0, 2**16), st.integers(1, 99), st.text(max_size=30))
def test_a_token_names_its_wait(item: int, step: int, attempt: int, command: str) -> None:
    waiter = Waiter(WAITER.run, item, step, attempt, command)
    token = token_of(waiter, "secret")

    assert re.fullmatch(r"smt_[A-Za-z0-9_-]+", token)
    assert read_token(token) == waiter
    assert is_genuine(token, "secret")


def test_another_secret_makes_another_token() -> None:
    token = token_of(WAITER, "a")

    assert token != token_of(WAITER, "b")
    assert not is_genuine(token, "b")


@given(st.integers(0, 200), st.sampled_from("AZaz09-_"))
def test_a_changed_token_is_not_genuine(at: int, letter: str) -> None:
    token = token_of(WAITER, "secret")
    at = len(PREFIX) + at % (len(token) - len(PREFIX) - 1)  # the last letter may hold bits that say nothing
    changed = token[:at] + letter + token[at + 1 :]

    assert is_genuine(changed, "secret") == (changed == token)


@pytest.mark.parametrize("token", ["", "smt_", "smt_!", "smt_é", "smt_" + "A" * 40, "other_" + "A" * 40, "smt_A", "smt_" + "A" * 3000])
def test_what_is_no_token_is_told_apart(token: str) -> None:
    assert read_token(token) is None
    assert not is_genuine(token, "secret")
