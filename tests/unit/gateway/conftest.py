"""A gateway for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.unit.gateway.door import Client, Door, Workshop, opened


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """With the limits that a gateway has when nobody sets any."""
    async with opened() as one:
        yield one


@pytest.fixture
def client(door: Door) -> Client:
    """Connected to `door`."""
    return door.client


@pytest.fixture
def workshop(door: Door) -> Workshop:
    """The worker behind `door`."""
    return door.workshop
