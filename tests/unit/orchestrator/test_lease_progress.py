"""What a worker's heartbeat says of its progress is what `stepmesh explain` shows."""

from __future__ import annotations

import pytest

from stepmesh_broker.protocol.ids import RunId, WorkerId
from stepmesh_broker.protocol.messages import Progress, TaskRef
from stepmesh_orchestrator.runtime.leases import DETAILS_SHOWN, Leases

REF = TaskRef(RunId("r"), 0, 0, 1)
ANN = WorkerId("ann")


def told(progress: float | None, details: bytes | None) -> str:
    leases = Leases()
    leases.claim(REF, ANN, 0.0, 0)
    leases.renew(Progress(REF, progress, details), ANN, 1.0, 0)
    return leases.held[RunId("r"), 0, 0].told()


@pytest.mark.parametrize(
    ("progress", "details", "shown"),
    [
        (None, None, "worker ann holds it"),
        (0.4, None, "worker ann holds it, 40% done"),
        (0.0, b'{"page":12}', 'worker ann holds it, 0% done, {"page":12}'),
        (None, "{“ä”}".encode(), "worker ann holds it, {“ä”}"),
    ],
)
def test_progress_and_details_are_told(progress: float | None, details: bytes | None, shown: str) -> None:
    assert told(progress, details) == shown


def test_long_details_are_cut() -> None:
    assert told(None, b"x" * DETAILS_SHOWN) == "worker ann holds it, " + "x" * DETAILS_SHOWN
    assert told(None, b"x" * (DETAILS_SHOWN + 1)) == "worker ann holds it, " + "x" * DETAILS_SHOWN


def test_a_lease_without_a_heartbeat_names_its_worker() -> None:
    leases = Leases()
    leases.claim(REF, ANN, 0.0, 0)
    assert leases.held[RunId("r"), 0, 0].told() == "worker ann holds it"
