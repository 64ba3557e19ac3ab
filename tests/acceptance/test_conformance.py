"""The conformance flows, case by case, on every pair of broker and journal that makes sense (tests/README.md says which do not).

`tests/conformance/given` holds the flows that every engine of the language must pass, `own` those for what they leave out. Where the
originals of `given` lie beside the checkout they are run as well, so that a copy cannot hide a change.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from tests.acceptance.pairs import PAIRS, Pair

from stepmesh_cli.cases import Settings, Verdict, run_group
from stepmesh_cli.suites import grouped, suites_of

pytestmark = pytest.mark.acceptance
ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "tests" / "conformance" / "given", ROOT / "tests" / "conformance" / "own"]
ORIGINALS = ROOT.parent / "shared" / "conformance" / "flows"


async def verdicts(folder: Path, settings: Settings) -> list[Verdict]:
    found: list[Verdict] = []
    for group in grouped(suites_of([folder])):
        found += await run_group(group, replace(settings, namespace=f"t{uuid.uuid4().hex[:12]}"), lambda _: None)
    return found


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("folder", [*FOLDERS, *([ORIGINALS] if ORIGINALS.is_dir() else [])], ids=lambda one: one.name)
def test_every_case(folder: Path, pair: Pair, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    suites = suites_of([folder])
    assert [(suite.path.name, suite.problems) for suite in suites if suite.problems] == []
    broker, journal = pair.addresses(request)
    store = None if journal == "memory" or journal.startswith("postgres") else f"sqlite:{tmp_path / 'store.db'}"
    ended = asyncio.run(verdicts(folder, Settings(broker, pair.journal_in(tmp_path, journal), 60, store)))
    assert len(ended) == sum(len(suite.cases) for suite in suites)
    failed = [f"{one.suite.path.name} {one.case.name}: {'; '.join(one.differences)}" for one in ended if not one.passed]
    assert failed == []


def test_no_flow_is_left_out() -> None:
    for folder in FOLDERS:
        flows = {path.name for path in folder.glob("*.yaml")}
        assert {suite.path.name for suite in suites_of([folder])} == flows
    assert len(list(FOLDERS[0].glob("*.yaml"))) >= 12
    assert len(list(FOLDERS[1].glob("*.yaml"))) >= 12


def test_every_case_expects_something() -> None:
    cases = [case for folder in FOLDERS for suite in suites_of([folder]) for case in suite.cases]
    assert [case.name for case in cases if case.expected is None] == []
