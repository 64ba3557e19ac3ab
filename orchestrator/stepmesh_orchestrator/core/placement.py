"""Which member of a cluster should hold which partition. Every member computes it for itself, from the same facts, and gets the same.

Invariant: shares differ by at most one, and what can stay where it is stays: a join moves no more than the newcomer's share, a leave
no more than what the leaver held. It says what should be, not who may: the leases do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from stepmesh_broker.protocol.ids import Partition


def placement(partitions: int, members: Collection[str], leases: Mapping[Partition, str]) -> dict[Partition, str]:
    """Partition → member, for all of `partitions`; empty without members. `leases`: who holds what now, members or not."""
    if not members:
        return {}
    held = _held(partitions, members, leases)
    shares = _shares(partitions, held)
    placed = {partition: node for node, own in held.items() for partition in _kept(node, own, shares[node])}
    room = {node: shares[node] - sum(1 for owner in placed.values() if owner == node) for node in held}
    for partition in map(Partition, range(partitions)):
        if partition not in placed:
            placed[partition] = node = max((one for one in room if room[one]), key=lambda one: _weight(partition, one))
            room[node] -= 1
    return placed


def _held(partitions: int, members: Collection[str], leases: Mapping[Partition, str]) -> dict[str, list[Partition]]:
    held: dict[str, list[Partition]] = {node: [] for node in sorted(members)}
    for partition in map(Partition, range(partitions)):
        owner = leases.get(partition)
        if owner in held:
            held[owner].append(partition)
    return held


def _shares(partitions: int, held: Mapping[str, list[Partition]]) -> dict[str, int]:
    """How many each may have. What does not divide goes to those who have more than the others anyway, so that it need not move."""
    least, over = divmod(partitions, len(held))
    by_claim = sorted(held, key=lambda node: (len(held[node]) <= least, node))
    return {node: least + (rank < over) for rank, node in enumerate(by_claim)}


def _kept(node: str, own: list[Partition], share: int) -> list[Partition]:
    return sorted(own, key=lambda partition: _weight(partition, node), reverse=True)[:share]


def _weight(partition: Partition, node: str) -> bytes:
    """Rendezvous: the member with the largest one is the partition's favourite."""
    return hashlib.blake2s(f"{partition}/{node}".encode(), digest_size=8).digest()
