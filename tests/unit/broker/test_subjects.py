"""Subjects: the namespace first, and no name that could reach into another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool
from stepmesh_broker.protocol.subjects import checked_name

NS = Namespace("team-a")
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


def test_every_subject_begins_with_its_namespace() -> None:
    assert subjects.control(NS, Partition(7)) == "stepmesh.team-a.control.7"
    assert subjects.api(NS) == "stepmesh.team-a.api"
    assert subjects.presence(NS) == "stepmesh.team-a.presence"
    assert subjects.workers(NS, Pool("gpu")) == "stepmesh.team-a.workers.gpu"
    assert subjects.feed(NS, "run-1") == "stepmesh.team-a.feed.run-1"


@given(NAMES)
def test_a_name_passes_as_it_is(name: str) -> None:
    assert checked_name("pool", name) == name


@pytest.mark.parametrize("length", [1, 64])
def test_the_shortest_and_longest_names_pass(length: int) -> None:
    assert checked_name("pool", "x" * length) == "x" * length


@pytest.mark.parametrize("name", ["", "x" * 65, "a.b", "a b", "*", ">", "a\n", "a\r\nPUB", "é", "a/b", "\0", "٣"])
def test_anything_else_is_refused_with_what_it_was(name: str) -> None:
    with pytest.raises(BrokerError) as caught:
        checked_name("pool", name)
    assert caught.value.code == "SM-3004"
    assert repr(name) in str(caught.value)
    assert "64" in caught.value.hint


@given(st.text(alphabet=st.characters(exclude_categories=("Lu", "Ll", "Nd", "Cs")), min_size=1).filter(lambda text: set(text) - set("-_")))
def test_no_other_character_gets_through(name: str) -> None:
    with pytest.raises(BrokerError):
        checked_name("namespace", name)
