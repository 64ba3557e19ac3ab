"""Journal frames of many events are compressed, small ones and those of other releases are not; all are read the same."""

from __future__ import annotations

import hashlib
import os

import msgspec
import pytest

from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core.compression import LEAST_BYTES, compressed, expanded
from stepmesh_orchestrator.core.dictionary import EVENTS
from stepmesh_orchestrator.core.events import TURN_FORMAT, Event, StepSucceeded, Turn, decode_turn, encode_frame, encode_turn

RUN = RunId("01a2036c-38ce-7873-a7bb-339ab12a72ba")
_encode = msgspec.msgpack.encode


def of_events(*events: Event) -> Turn:
    return Turn(TURN_FORMAT, 5, 6, 7, list(events))


def of_many(count: int = 200) -> Turn:
    return of_events(*(StepSucceeded(RUN, item, 0, b'{"n":1}') for item in range(count)))


def test_a_turn_of_many_events_has_a_tenth_of_its_size_and_comes_back_whole() -> None:
    turn = of_many()

    payload, events_bytes = encode_frame(turn)

    assert events_bytes == len(_encode(turn.events))
    assert len(payload) < events_bytes / 10
    assert decode_turn(payload) == turn


def test_an_earlier_release_sees_that_it_cannot_read_a_compressed_frame() -> None:
    read_by_it = msgspec.msgpack.decode(encode_turn(of_many()), type=Turn)

    assert read_by_it.format > TURN_FORMAT
    assert not read_by_it.events


def test_a_frame_of_an_earlier_release_is_read_whatever_its_size() -> None:
    turn = of_many()

    assert decode_turn(_encode(turn)) == turn


def test_a_frame_is_as_an_earlier_release_wrote_it_where_compressing_saves_nothing() -> None:
    small, of_chance = of_events(StepSucceeded(RUN, 0, 0, b"1")), of_events(StepSucceeded(RUN, 0, 0, os.urandom(10_000)))

    for turn in (small, of_chance):
        assert encode_turn(turn) == _encode(turn)
        assert decode_turn(encode_turn(turn)) == turn


@pytest.mark.parametrize(("size", "is_less"), [(LEAST_BYTES - 1, False), (LEAST_BYTES, True)])
def test_the_least_that_is_compressed(size: int, is_less: bool) -> None:
    assert bool(compressed(b"a" * size)) is is_less


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"x" * len(data)])
def test_a_frame_whose_events_cannot_be_expanded_is_refused(damage: object) -> None:
    assert callable(damage)
    frame = msgspec.msgpack.decode(encode_turn(of_many()))

    with pytest.raises(ValueError, match="cannot be expanded"):
        decode_turn(_encode([*frame[:-1], damage(frame[-1])]))


def test_the_dictionary_is_the_one_that_journals_need() -> None:
    assert hashlib.sha256(EVENTS).hexdigest() == "25483b02cf1f45cba8c45e5900bceab4d5aceb3f2e7a06b40f3f5f213bebfeb5"


def test_what_is_expanded_is_what_was_compressed() -> None:
    data = _encode(of_many(9).events)

    assert expanded(compressed(data)) == data
