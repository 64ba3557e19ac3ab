"""An error that a person reads arrives as it was when it comes from another process."""

from __future__ import annotations

import pickle

import pytest

from stepmesh import RunFailed
from stepmesh.errors import FlowInvalid, RequestRefused
from stepmesh_broker.errors import BrokerUnavailable, InboxTaken, StepmeshError

PROBLEMS = [
    BrokerUnavailable("no connection", hint="is it up?"),
    InboxTaken.of(3),
    StepmeshError("refused", code="SM-9999"),
    RequestRefused("no", code="SM-5003", data={"run": "r"}),
    FlowInvalid("not stored", [{"code": "SM-2001"}]),
    RunFailed("r1", 0, "UNREACHABLE", "nobody answered", {"pool": "p"}),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda one: type(one).__name__)
def test_nothing_is_lost_between_processes(problem: StepmeshError) -> None:
    again = pickle.loads(pickle.dumps(problem))
    assert type(again) is type(problem)
    assert str(again) == str(problem)
    assert again.args == problem.args
    assert vars(again) == vars(problem)
