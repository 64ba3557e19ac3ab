"""What the tests of the demo share."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.cli.recording import Recorded, record


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return asyncio.run(record(tmp_path_factory.mktemp("recorded")))
