"""A history played again: from the beginning with the code of today, or as workers would that end after any record of it.

Invariant: no step is done here and nothing is sent; what there is comes from the records alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from stepmesh.durable.divergence import Divergence
from stepmesh.durable.execution import Execution
from stepmesh.durable.fixtures import History
from stepmesh.durable.turns import State, Turn
from stepmesh.durable.workflow import Workflow
from stepmesh_broker.protocol.histories import Issued, Record, Settled

Body = Callable[[], Execution]
"""Makes one anew."""


def replay(workflow: Workflow[..., Any], history: History) -> Divergence | None:
    """What differs when the code of today gets this history; None when nothing does."""
    execution = workflow.begin(history.run, bytes(history.input), history.started_ms, recorded=history.version)
    try:
        return execution.turn(history.read()).divergence
    finally:
        execution.drop()


def crash_at_every_record(body: Body, records: Sequence[Record]) -> None:
    """Raises `AssertionError`, which names the record, where the end is another one, or something is asked for or done that was not."""
    expected = _ended(body, records, len(records))
    for place in range(len(records)):
        found = _ended(body, records, place)
        assert found.state is expected.state, f"a crash after record {place}: {found.divergence or found.error or found.state}"
        assert found.value == expected.value, f"a crash after record {place}: the result is {found.value!r}, not {expected.value!r}"
    counts = Counter(record.id for record in records if isinstance(record, Settled))
    twice = [id for id, count in counts.items() if count > 1]
    assert not twice, f"settled more than once: {twice}"


def _ended(body: Body, records: Sequence[Record], crash: int) -> Turn:
    """One worker until the record `crash`; another one replays to there, and then gets one record after the other."""
    first = body()
    first.turn(records[:crash])
    first.drop()
    second = body()
    asked = {record.id for record in records if isinstance(record, Issued)}
    try:
        turn = second.turn(records[:crash])
        for record in records[crash:]:
            if turn.state is not State.IDLE:
                break
            new = [command.id for command in turn.commands if command.id not in asked]
            assert not new, f"after a crash at record {crash} the body asks for {new}, which the history lacks"
            turn = second.turn([record])
        return turn
    finally:
        second.drop()
