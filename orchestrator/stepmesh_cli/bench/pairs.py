"""Which pairs of broker and journal make sense. Pure; names are as `addresses` has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stepmesh_cli.addresses import NATS, scheme_of


class Pair(NamedTuple):
    """`nonsense`: why nobody would use it; empty when somebody might."""

    broker: str
    journal: str
    nonsense: str = ""


def pairs(brokers: Sequence[str], journals: Sequence[str]) -> list[Pair]:
    """Each broker with each journal, in the order given, once."""
    named = dict.fromkeys((broker, journal) for broker in brokers for journal in journals)
    return [Pair(broker, journal, _nonsense(broker, journal)) for broker, journal in named]


def _nonsense(broker: str, journal: str) -> str:
    carries, keeps = _system(broker), _system(journal)
    if carries == "memory" and keeps in ("broker", "nats", "kafka"):
        return "a broker in memory keeps nothing" if keeps == "broker" else "the server of the journal could carry the tasks as well"
    if {carries, keeps} == {"nats", "kafka"}:
        return "two message systems for what one does"
    if carries == keeps and _servers(broker) > _servers(journal):
        return "the journal would be the part that is lost"
    if keeps == "memory" and _servers(broker) > 1:
        return "the cluster keeps what nobody reads any more"
    return ""


def _system(name: str) -> str:
    scheme = scheme_of(name)
    return "nats" if scheme in {*NATS, "embedded"} else scheme


def _servers(name: str) -> int:
    return name.partition("?")[0].count(",") + 1
