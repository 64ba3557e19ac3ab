"""What runs wait for before they begin: gates, each a key with a rule. The key's home partition keeps who was let through.

Values only. `Permits` is written by `evolve` alone; it must not know flows or runs, only their ids and where they live.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from stepmesh_broker.protocol.ids import Partition, RunId

QUEUE, SKIP, CANCEL_PREVIOUS = "queue", "skip", "cancel_previous"
POLICIES = (QUEUE, SKIP, CANCEL_PREVIOUS)


class Rule(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`limit`: runs let through at once, 0 = any number; `policy`: what becomes of one that comes while all places are taken.
    `interval_us`: one is let through in that time, after `burst` at once; 0 = no rate. `period_ms`: only the last one that comes within
    this time of the one before is let through, at the latest `max_ms` after the first; 0 = all are."""

    limit: int = 0
    policy: str = QUEUE
    interval_us: int = 0
    burst: int = 0
    period_ms: int = 0
    max_ms: int = 0


class Gate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`key`: namespace/flow/kind/value. `shown`: the value, for people."""

    key: str
    shown: str
    rule: Rule


class KeyPermits(msgspec.Struct, array_like=True, gc=False):
    """Of one key: run → its partition, in the order in which they came. `revoked`: are to end; those among them that hold a permit do so
    until they have ended. `next_us`: when the rate would let one through that comes after all others. `first_ms`: when the oldest of
    those came that were put off; `due_ms`: when the last one is let through."""

    rule: Rule
    holders: dict[RunId, Partition] = {}
    waiting: dict[RunId, Partition] = {}
    revoked: dict[RunId, Partition] = {}
    next_us: int = 0
    first_ms: int = 0
    due_ms: int = 0

    def counts(self, run: RunId) -> bool:
        """Whether it asked, and has not gone."""
        return run in self.holders or run in self.waiting or run in self.revoked

    def has_room(self) -> bool:
        """Whether one more may be let through, as far as the limit says."""
        return not self.rule.limit or len(self.holders) < self.rule.limit

    def is_full(self) -> bool:
        """Whether somebody waits for those who hold a permit."""
        return bool(self.waiting) and not self.has_room()

    def opens_ms(self) -> int:
        """When the next one may be let through, as far as rate and period say."""
        opens_us = self.next_us - self.rule.interval_us * (self.rule.burst - 1) if self.rule.interval_us else 0
        return max(-(-opens_us // 1000), self.due_ms)

    def is_idle(self) -> bool:
        """Whether nobody has to do with it."""
        return not (self.holders or self.waiting or self.revoked)


class Breaker(msgspec.Struct, array_like=True, gc=False):
    """Of a component that is left alone until `due_ms`, when one attempt may try it. `pause_ms`: how long that was."""

    pause_ms: int
    due_ms: int


class _Image(msgspec.Struct, array_like=True, gc=False):
    keys: dict[str, KeyPermits]
    idle: list[str]
    breakers: dict[str, Breaker]
    passed: dict[Partition, int] = {}
    doubted: dict[str, dict[RunId, Partition]] = {}
    asked: dict[str, dict[RunId, int]] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Image)


class Permits:
    """By key. `idle`: keys that are kept only because their rate remembers; they go when it has forgotten. `breakers`: open ones, by
    component. `passed`: by other partition, how far it was when it last told that somebody is gone. `doubted`, by key: asked before that,
    perhaps in a late copy, and were not confirmed so far. `asked`, by key: how far its partition was when somebody asked last."""

    def __init__(self) -> None:
        self.keys: dict[str, KeyPermits] = {}
        self.idle: OrderedDict[str, None] = OrderedDict()
        self.breakers: dict[str, Breaker] = {}
        self.passed: dict[Partition, int] = {}
        self.doubted: dict[str, dict[RunId, Partition]] = {}
        self.asked: dict[str, dict[RunId, int]] = {}

    def encoded(self) -> bytes:
        """For a snapshot; empty when there is nothing, and as earlier releases wrote it when it says no more than theirs."""
        plain, late = (self.keys, list(self.idle), self.breakers), (self.passed, self.doubted)
        if self.asked:
            return _encoder.encode((*plain, *late, self.asked))
        if self.passed or self.doubted:
            return _encoder.encode((*plain, *late))
        return _encoder.encode(plain) if self.keys or self.breakers else b""

    def restore(self, image: bytes) -> None:
        """From a snapshot."""
        if image:
            found = _decoder.decode(image)
            self.keys, self.idle, self.breakers = found.keys, OrderedDict.fromkeys(found.idle), found.breakers
            self.passed, self.doubted, self.asked = found.passed, found.doubted, found.asked
