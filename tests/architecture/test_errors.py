"""The catalogue of error codes and the source say the same, and a code means one thing."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"SM-\d{4}")
SOURCES = [path for folder in ("broker", "sdk", "components", "orchestrator") for path in sorted((ROOT / folder).rglob("*.py"))]
RANGES = {
    "SM-0xxx": "set-up and command line",
    "SM-1xxx": "durable functions",
    "SM-2xxx": "flows",
    "SM-3xxx": "broker",
    "SM-4xxx": "journal and store",
    "SM-5xxx": "runs",
    "SM-6xxx": "workers",
    "SM-7xxx": "gateway",
}
SAME_MEANING_ELSEWHERE = {
    **{code: {"durable/guards.py", "durable/lint.py"} for code in ("SM-1010", "SM-1011", "SM-1013")},  # when it is done, and before
    "SM-1012": {"durable/loop.py", "durable/lint.py"},
    "SM-1015": {"durable/loop.py", "durable/lint.py"},
    "SM-1021": {"durable/endings.py", "durable/lint.py"},
    "SM-0200": {"config/errors.py", "config/loading.py"},
    "SM-3004": {
        "protocol/subjects.py",
        "nats/transport.py",
        "kafka/transport.py",
    },  # what no subject can hold, as a name and as a whole subject
    "SM-3012": {"nats/embedded.py", "nats/folder.py"},  # the broker's folder, by its owner and by its server
    "SM-4003": {"stepmesh_orchestrator/ports.py", "stepmesh/requests.py"},  # a component's request waits until there is space again
    "SM-4005": {"journal/rules.py", "stepmesh/requests.py"},  # the client asks again
    "SM-4008": {"runtime/recovery.py", "demo/history.py"},  # whoever replays a journal needs its flows
    "SM-4101": {"store/sqlite.py", "stepmesh/requests.py"},
    "SM-4103": {"store/sqlite.py", "stepmesh/requests.py"},
    "SM-5001": {"decide/submit.py", "stepmesh_cli/cases.py"},  # the test command tells a refused input as a failed case
    "SM-5003": {"stepmesh/errors.py", "runtime/run_view.py", "decide/cancel.py"},  # raised in the client for the refusal
    "SM-5004": {"stepmesh/errors.py", "runtime/flow_requests.py", "runtime/admission.py"},
    "SM-5005": {"stepmesh/errors.py", "runtime/flow_requests.py"},
    "SM-5281": {"decide/asking.py", "stepmesh/run_asking.py"},  # the client asks again while the function has not begun
    "SM-5133": {"work/questions.py", "runtime/queries.py"},  # the orchestrator asks another worker
    "SM-5134": {"work/questions.py", "runtime/queries.py"},  # the worker is asked to read the history itself
    "SM-5110": {"stepmesh/requests.py", "runtime/owners.py"},  # the client asks again
    "SM-7320": {"runtime/external_projector.py", "stepmesh/requests.py"},  # a component's request waits until projectors have come
    "SM-5900": {
        "runtime/shard.py",
        "runtime/dispatch.py",
        "runtime/api.py",
        "protocol/attributes.py",
    },  # a defect; the metric that counts it
}


def catalogued() -> list[str]:
    return re.findall(r"^\| (SM-\d{4}) \|", (ROOT / "docs/errors.md").read_text(), re.M)


def used(path: Path) -> set[str]:
    """Codes in the text values of a module; docstrings and comments only tell of codes."""
    tree = ast.parse(path.read_text())
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in told]
    return {code for value in values if isinstance(value, str) for code in CODE.findall(value)}


def places() -> dict[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in SOURCES:
        if path.name not in {"exits.py", "kinds.py"}:  # they say how each ends, and raise none
            for code in used(path):
                found[code].add(f"{path.parent.name}/{path.name}")
    found["SM-0001"].add("dev")
    return found


def test_every_code_of_the_source_is_in_the_catalogue_and_no_other() -> None:
    assert sorted(catalogued()) == sorted(places())


def test_a_code_has_one_row() -> None:
    assert [code for code, count in Counter(catalogued()).items() if count > 1] == []


def test_a_code_has_one_meaning() -> None:
    several = {code: names for code, names in places().items() if len(names) > 1}
    assert several == SAME_MEANING_ELSEWHERE


def test_codes_that_are_told_exist() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *(ROOT / "docs").rglob("*.md"), *SOURCES]
    unknown = {path.name: codes for path in documents if (codes := set(CODE.findall(path.read_text())) - set(catalogued()))}
    assert unknown == {}


def test_the_setup_script_has_its_code() -> None:
    assert CODE.findall((ROOT / "dev").read_text()) == ["SM-0001"]


@pytest.mark.parametrize(("heading", "about"), RANGES.items())
def test_codes_stand_under_the_heading_of_their_range(heading: str, about: str) -> None:
    section = (ROOT / "docs/errors.md").read_text().split(f"\n## {heading}: {about}\n")[1].split("\n## ")[0]
    codes = re.findall(r"^\| (SM-\d{4}) \|", section, re.M)
    assert codes
    assert all(code.startswith(heading.removesuffix("xxx")) for code in codes)
    assert codes == sorted(codes)
