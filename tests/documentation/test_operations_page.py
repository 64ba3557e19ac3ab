"""docs/operations.md: its session with a real deployment, and its table of limits against the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.documentation.page import Page, rehearse

from stepmesh import Worker, failures
from stepmesh_broker.nats.folder import MAX_PAYLOAD
from stepmesh_broker.nats.transport import HEADER_ROOM
from stepmesh_orchestrator.core.decide.builtins import MAX_SLEEP_MS
from stepmesh_orchestrator.core.flow.limits import LIMITS, PAYLOAD_DEPTH
from stepmesh_orchestrator.core.session import EngineSettings
from stepmesh_orchestrator.runtime.external_projector import MAX_BEHIND
from stepmesh_orchestrator.runtime.leases import LEASE_MS
from stepmesh_orchestrator.runtime.shard import SNAPSHOT_BYTES

PAGE = Page.of("docs/operations.md")
ENGINE = EngineSettings()
IN_SOURCE = [
    LIMITS.document_bytes,
    LIMITS.expanded_characters,
    LIMITS.nodes,
    LIMITS.depth,
    LIMITS.steps,
    LIMITS.integer_digits,
    64,  # the pattern of names, see the test of subjects
    PAYLOAD_DEPTH,
    PAYLOAD_DEPTH,
    Worker("x").payload_limit_bytes,
    MAX_PAYLOAD - HEADER_ROOM,
    ENGINE.max_items,
    ENGINE.item_window,
    ENGINE.default_max_concurrency,
    ENGINE.max_depth,
    ENGINE.max_iterations,
    MAX_SLEEP_MS // 86_400_000,
    ENGINE.event_bytes,
    ENGINE.events_per_address,
    ENGINE.kept_event_bytes,
    ENGINE.keep_events_ms // 3_600_000,
    ENGINE.transport_max_retries,
    Worker("x").concurrency,
    LEASE_MS // 1000,
    failures.MESSAGE_LIMIT,
    failures.TRACEBACK_LIMIT,
    failures.DATA_LIMIT,
    MAX_BEHIND,
]


def test_the_table_of_limits_is_the_source() -> None:
    table = PAGE.text.split("\n## Limits\n")[1]
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+) \|", table, re.M)
    assert [int(row.replace(",", "")) for row in rows] == IN_SOURCE


def test_figures_in_the_text_are_the_source() -> None:
    assert f"after {SNAPSHOT_BYTES >> 20} MiB of events" in PAGE.text
    assert f"until {ENGINE.remember_ended_ms // 3_600_000} hours" in PAGE.text
    assert f"at most {ENGINE.remember_ended:,} ended runs" in PAGE.text


@pytest.mark.acceptance
def test_the_session_is_as_shown(tmp_path: Path) -> None:
    assert rehearse(PAGE, tmp_path) >= 20
