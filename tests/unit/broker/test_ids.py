"""Ids that must be the same for every process, version and machine."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from stepmesh_broker.protocol.ids import RunId, child_run_id, content_id, partition_of

PARENT = RunId("0195f3a0-1234-7abc-8def-0123456789ab")


@given(st.text(), st.integers(1, 4096))
def test_a_partition_is_one_of_those_there_are(key: str, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions
    assert partition_of(key, partitions) == partition_of(key, partitions)
    assert partition_of(key, 1) == 0


def test_partitions_of_known_keys_never_change() -> None:
    assert [partition_of(key, 16) for key in ("", "a", "order-42", str(PARENT), "ü")] == [6, 9, 7, 8, 6]


def test_keys_spread_evenly() -> None:
    counts = Counter(partition_of(f"run-{number}", 16) for number in range(16_000))
    assert len(counts) == 16
    assert all(800 < count < 1200 for count in counts.values())


def test_content_id_is_the_sha256_of_the_bytes() -> None:
    assert content_id(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert content_id(b"{}") == hashlib.sha256(b"{}").hexdigest()


@given(st.uuids(version=4), st.text())
def test_a_child_id_is_a_uuid7_of_its_parents_time(parent: uuid.UUID, discriminator: str) -> None:
    child = uuid.UUID(child_run_id(RunId(str(parent)), discriminator))
    assert child.version == 7
    assert child.variant == uuid.RFC_4122
    assert str(child)[:13] == str(parent)[:13]


def test_a_child_id_depends_on_parent_and_discriminator_only() -> None:
    ids = {child_run_id(PARENT, f"{step}/{chunk}") for step in range(50) for chunk in range(50)}
    assert len(ids) == 2500
    assert child_run_id(PARENT, "1/2") == child_run_id(PARENT, "1/2")
    assert child_run_id(RunId(str(uuid.UUID(int=7))), "1/2") != child_run_id(PARENT, "1/2")
