"""Frames of a journal as JSON lines."""

from __future__ import annotations

import json

from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId
from stepmesh_broker.protocol.messages import Failure
from stepmesh_cli.readable_turns import decode, line
from stepmesh_orchestrator.core.events import RunCreated, StepFailed, StepSucceeded, Turn, encode_turn
from stepmesh_orchestrator.journal.inspect import DumpedFrame

RUN, OTHER = RunId("run"), RunId("other")


def shown(turn: Turn, run: str | None = None) -> str | None:
    payload = encode_turn(turn)
    found = line(Partition(3), DumpedFrame(9, 2, len(payload), decode(payload)), run)
    return None if found is None else found.decode()


def test_payloads_keep_their_digits_and_what_is_no_json_is_base64() -> None:
    events = [
        RunCreated(RUN, RUN, Namespace("n"), FlowId("f"), [b'{"a":1.10}', b"123456789012345678901234567890"], 10, 0),
        StepSucceeded(RUN, 0, 1, b"\xff\x00"),
        StepSucceeded(RUN, 0, 2, b"nope"),
    ]
    text = shown(Turn(1, 1_700_000_000_123, 5, 4, list(events)))
    assert text is not None
    assert '"inputs":[{"a":1.10},123456789012345678901234567890]' in text
    told = json.loads(text)
    assert (told["partition"], told["sequence"], told["epoch"], told["inbox"], told["confirmed"]) == (3, 9, 2, 5, 4)
    assert told["at"] == "2023-11-14T22:13:20.123+00:00"
    assert told["events"][1]["output"] == {"base64": "/wA="}
    assert told["events"][2]["output"] == {"base64": "bm9wZQ=="}


def test_error_codes_have_names_and_unknown_ones_stay_numbers() -> None:
    turn = Turn(1, 0, 0, 0, [StepFailed(RUN, 0, 0, Failure(3, "x", b'{"y":1}')), StepFailed(RUN, 0, 1, Failure(99, "z"))])
    first, second = json.loads(shown(turn) or "")["events"]
    assert first["failure"] == {"code": "COMPONENT_FAILED", "message": "x", "data": {"y": 1}}
    assert second["failure"] == {"code": 99, "message": "z"}


def test_only_one_runs_events() -> None:
    turn = Turn(1, 0, 0, 0, [StepSucceeded(RUN, 0, 0, b"1"), StepSucceeded(OTHER, 0, 0, b"2")])
    assert [event["run"] for event in json.loads(shown(turn, "other") or "")["events"]] == ["other"]
    assert shown(turn, "third") is None


def test_a_payload_that_is_no_turn_is_told_not_raised() -> None:
    frame = DumpedFrame(1, 1, 3, decode(b"\xc1ab"))
    assert "not a turn" in json.loads(line(Partition(0), frame) or b"")["error"]
    assert line(Partition(0), frame, "run") is None
    assert "format 9" in str(decode(encode_turn(Turn(9, 0, 0, 0, []))))
