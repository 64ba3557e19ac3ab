"""A cluster of three whose nodes tests kill; each test leaves it whole, and has a namespace of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.services.nats import NatsServers

from stepmesh_broker.protocol.ids import Namespace


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with NatsServers(Path(tmp_path_factory.mktemp("nats")), 3) as servers:
        yield servers


@pytest.fixture
def namespace() -> Namespace:
    return Namespace(f"t{uuid.uuid4().hex[:12]}")
