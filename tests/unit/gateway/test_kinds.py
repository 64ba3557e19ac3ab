"""Every refusal that a client can cause has a kind of its own; what is left is a defect, or a mistake in the deployment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stepmesh_broker.errors import BrokerUnavailable, MalformedMessage, MessageTooLarge, StepmeshError
from stepmesh_gateway.translate.kinds import Kind, kind_of

ROOT = Path(__file__).parents[3]
DEFECTS = {
    "SM-5010": "a gateway that is wrong about the number of partitions",
    "SM-5023": "the reason of a dead letter: no client hears it",
    "SM-5130": "the reason of a dead letter: no client hears it",
    "SM-5131": "the reason of a dead letter: no client hears it",
    "SM-5900": "a defect of the orchestrator",
    "SM-7205": "a defect of the gateway",
    "SM-7900": "a defect of the gateway",
}
CLIENTS_SIDE = {"SM-7310", "SM-7311"}


def refusals() -> set[str]:
    """Codes with which the orchestrator answers, and those of the gateway."""
    orchestrator = [path.read_text() for path in (ROOT / "orchestrator/stepmesh_orchestrator").rglob("*.py")]
    answered = {code for text in orchestrator for code in re.findall(r'Refused\(\s*"(SM-\d{4})"', text)}
    gateway = re.findall(r"^\| (SM-7\d{3}) \|", (ROOT / "docs/errors.md").read_text(), re.M)
    return answered | set(gateway) - CLIENTS_SIDE


def test_whatever_is_refused_has_a_kind() -> None:
    found = refusals()
    assert len(found) > 30
    assert {code for code in found if kind_of(StepmeshError("x", code=code)) is Kind.INTERNAL} == set(DEFECTS)


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (BrokerUnavailable("x"), Kind.UNAVAILABLE),
        (MessageTooLarge("x"), Kind.TOO_LARGE),
        (MalformedMessage("x"), Kind.INVALID_ARGUMENT),
        (StepmeshError("x", code="SM-2013"), Kind.INVALID_ARGUMENT),
        (StepmeshError("x", code="SM-4004"), Kind.FAILED_PRECONDITION),
        (StepmeshError("x", code="SM-9999"), Kind.INTERNAL),
    ],
)
def test_errors_by_their_class_and_range(problem: StepmeshError, kind: Kind) -> None:
    assert kind_of(problem) is kind
