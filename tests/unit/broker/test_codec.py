"""Bytes ⇄ messages: every message comes back as it was, and nothing else comes through."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepmesh_broker.errors import MalformedMessage
from stepmesh_broker.protocol import api, codec, messages
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, RunId, WorkerId
from stepmesh_broker.protocol.messages import FORMAT

Decode = Callable[[bytes], Any]

DECODERS: dict[Decode, tuple[type[msgspec.Struct], ...]] = {
    codec.decode_task_frame: (messages.TaskFrame,),
    codec.decode_inbox: typing.get_args(messages.InboxMessage),
    codec.decode_control: typing.get_args(messages.ControlMessage),
    codec.decode_answer: typing.get_args(messages.Answer),
    codec.decode_presence: (messages.Hello, messages.Stop),
    codec.decode_api_request: typing.get_args(api.ApiRequest),
    codec.decode_api_answer: typing.get_args(api.ApiAnswer),
}
PAIRS = [(decode, kind) for decode, kinds in DECODERS.items() for kind in kinds]
VERSIONED = (messages.TaskFrame, messages.Results, messages.Submit, messages.Cancel)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a field type that the messages use."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return structs(kind)
    if isinstance(kind, typing.NewType):
        return values(kind.__supertype__)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return st.lists(values(args[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(values(args[0]), values(args[1]), max_size=3)
    if args:
        return st.one_of([values(arg) for arg in args])
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=20),
        bytes: st.binary(max_size=20),
        int: st.integers(-(2**63), 2**64 - 1),
        bool: st.booleans(),
        float: st.floats(allow_nan=False),
        type(None): st.none(),
    }
    return simple[kind]


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Any instance of a message type, of the present format."""
    hints = typing.get_type_hints(kind)
    fields = {field.name: values(hints[field.name]) for field in msgspec.structs.fields(kind)}
    if "format" in fields:
        fields["format"] = st.integers(1, FORMAT)
    return st.builds(kind, **fields)


@pytest.mark.parametrize(("decode", "kind"), PAIRS, ids=lambda part: getattr(part, "__name__", None))
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_message_comes_back_as_it_was(decode: Decode, kind: type[msgspec.Struct], data: st.DataObject) -> None:
    message = data.draw(structs(kind))
    decoded = decode(codec.encode(message))
    assert decoded == message
    assert type(decoded) is kind


@pytest.mark.parametrize(("decode", "kind"), PAIRS, ids=lambda part: getattr(part, "__name__", None))
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_truncated_message_is_malformed(decode: Decode, kind: type[msgspec.Struct], data: st.DataObject) -> None:
    whole = codec.encode(data.draw(structs(kind)))
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(MalformedMessage) as caught:
        decode(part)
    assert caught.value.code == "SM-3003"


@pytest.mark.parametrize("decode", DECODERS)
@settings(max_examples=20, deadline=None)
@given(noise=st.binary(max_size=200))
def test_noise_is_malformed_or_a_message_never_another_error(decode: Decode, noise: bytes) -> None:
    assert outcome(decode, noise) in {MalformedMessage, *DECODERS[decode]}


def outcome(decode: Decode, data: bytes) -> type:
    """The type of what comes out, or of what was raised."""
    try:
        return type(decode(data))
    except MalformedMessage as problem:
        return type(problem)


@pytest.mark.parametrize("decode", DECODERS)
def test_wrong_types_are_malformed(decode: Decode) -> None:
    for value in (None, 1, "text", {}, [], {"type": "submit"}, ["nobody", 1], [[[[]]]], ["submit", {}], [FORMAT, 1, 2, 3, 4, 5, 6]):
        with pytest.raises(MalformedMessage):
            decode(msgspec.msgpack.encode(value))
    with pytest.raises(MalformedMessage):
        decode(b"\x91" * 100_000)
    with pytest.raises(MalformedMessage):
        decode(msgspec.msgpack.encode(["cancel", "run"]).replace(b"run", b"\xff\xfe\xfd")[:-1])


@pytest.mark.parametrize(("decode", "kind"), PAIRS, ids=lambda part: getattr(part, "__name__", None))
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_fields_that_a_newer_side_added_are_ignored(decode: Decode, kind: type[msgspec.Struct], data: st.DataObject) -> None:
    message = data.draw(structs(kind))
    longer = [*msgspec.msgpack.decode(codec.encode(message), type=list[msgspec.Raw]), {"of": "the future"}]
    assert decode(msgspec.msgpack.encode(longer)) == message


@pytest.mark.parametrize("kind", VERSIONED)
@pytest.mark.parametrize("version", [FORMAT + 1, FORMAT + 1000, 0, -1])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_another_format_is_refused(kind: type[msgspec.Struct], version: int, data: st.DataObject) -> None:
    decode = codec.decode_task_frame if kind is messages.TaskFrame else codec.decode_inbox
    message = msgspec.structs.replace(data.draw(structs(kind)), format=version)
    with pytest.raises(MalformedMessage, match=f"format {version} is not known"):
        decode(codec.encode(message))


def test_defaults_may_be_missing() -> None:
    short = msgspec.msgpack.encode(["cancel", "run-1"])
    assert codec.decode_inbox(short) == messages.Cancel(RunId("run-1"))


def test_payloads_travel_untouched() -> None:
    payload = b'{"b": 1.0, "a": [1e400, "\xc3\xbc"]}  '
    task = messages.Task(RunId("r"), 0, 0, 1, 1, "s", "/c", payload)
    frame = messages.TaskFrame(FORMAT, Namespace("n"), Pool("p"), Partition(1), 1, "j", [task])
    assert codec.decode_task_frame(codec.encode(frame)).tasks[0].input == payload
    results = messages.Results(WorkerId("w"), "j", [messages.Result(RunId("r"), 0, 0, 1, payload)])
    decoded = codec.decode_inbox(codec.encode(results))
    assert isinstance(decoded, messages.Results)
    assert decoded.results[0].output == payload
