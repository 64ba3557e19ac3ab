"""The compose files: valid, complete together, with command lines and addresses that the programs take."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose, PyOptions
from cyclopts import CycloptsError
from tests.infra.command_lines import INFRA, KNOWN, parse

from stepmesh import Worker
from stepmesh_broker.nats import NatsSettings
from stepmesh_broker.nats.permissions import accounts

COMPOSE = INFRA / "compose"
FILES = sorted(COMPOSE.glob("*.yaml"))
TOGETHER = ("nats", "postgres", "collector", "stepmesh")


def services(*names: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        found |= yaml.safe_load((COMPOSE / f"{name}.yaml").read_text())["services"]
    return found


def filled(text: str) -> str:
    """As Compose fills it in: variables with their default, or as `secret` where they must be given."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", re.sub(r"\$\{\w+:\?\}", "secret", text))


ROLES = services("stepmesh")


def test_there_is_a_file_for_each_part() -> None:
    assert [file.stem for file in FILES] == ["collector", "kafka", "nats", "postgres", "redis", "stepmesh"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_is_of_the_compose_specification(file: Path) -> None:
    options = PyOptions()
    options.apply_merge = True
    made: PyCompose = options.from_yaml(filled(file.read_text()))
    made.validate_volumes()
    made.validate_networks()
    made.validate_configs()
    made.validate_secrets()


def test_the_specification_is_checked() -> None:
    with pytest.raises(Exception, match="healthcheckk"):
        PyOptions().from_yaml("services: {a: {image: b, healthcheckk: {}}}")


def test_what_is_depended_on_is_there_and_has_the_check_that_is_waited_for() -> None:
    together = services(*TOGETHER)
    for name, service in together.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in together, name
            assert how["condition"] == "service_started" or "healthcheck" in together[other], (name, other)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_files_that_are_mounted_are_there(file: Path) -> None:
    for service in yaml.safe_load(file.read_text())["services"].values():
        for volume in service.get("volumes", []):
            source = filled(volume).partition(":")[0]
            assert not source.startswith(".") or (COMPOSE / source).exists(), volume


def test_every_role_is_a_command() -> None:
    assert {service["command"][0] for service in ROLES.values()} - KNOWN <= {"orchestrator"}  # which came later than these files


@pytest.mark.parametrize("role", [role for role in ROLES if ROLES[role]["command"][0] in KNOWN])
def test_a_role_is_started_as_the_program_wants_it(role: str) -> None:
    parse(ROLES[role]["command"])
    check = ROLES[role].get("healthcheck", {}).get("test", [])
    if check[1:2] == ["stepmesh"]:
        parse(check[2:])


def test_a_wrong_command_line_is_refused() -> None:
    for wrong in (["gateway", "--prot", "1"], ["gateway", "--port", "x"], ["worker"], ["gatewai"]):
        with pytest.raises(CycloptsError):
            parse(wrong)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_an_account_and_hears_its_answers_where_it_may(role: str) -> None:
    settings = NatsSettings.parse(filled(ROLES[role]["environment"]["STEPMESH_URL"]))
    assert settings.url == ("nats://nats-1:4222", "nats://nats-2:4222", "nats://nats-3:4222")
    line = next(line for line in (INFRA / "nats" / "accounts.conf").read_text().splitlines() if f'user: "{settings.user}"' in line)
    assert f'"{settings.inbox_prefix}.>"' in line
    assert settings.user == role
    assert settings.password == "secret"


def test_the_nats_servers_get_every_variable_of_their_configuration() -> None:
    text = "".join((INFRA / "nats" / name).read_text() for name in ("server.conf", "accounts.conf"))
    wanted = set(re.findall(r"\$([A-Z][A-Z_0-9]+)\b(?!\.)", text)) - {"JS"}
    for service in services("nats").values():
        assert wanted <= service["environment"].keys()


def test_the_pools_of_the_example_are_those_of_the_accounts() -> None:
    found = runpy.run_path(str(COMPOSE / "app" / "steps.py"))
    pools = {name: value.pool for name, value in found.items() if isinstance(value, Worker)}
    assert pools == {"cpu": "cpu", "gpu": "gpu"}
    assert all(f'"worker-{pool}"' in accounts("default", tuple(pools.values())) for pool in pools)  # type: ignore[arg-type]


def test_the_image_of_kafka_is_the_release_that_is_tested() -> None:
    tested = re.search(r"<version>(\d+\.\d+\.\d+)</version>", (INFRA.parent / "tests" / "services" / "pom.xml").read_text())
    assert tested is not None
    assert {service["image"] for service in services("kafka").values()} == {f"apache/kafka:{tested[1]}"}


def test_the_image_has_what_the_roles_need_and_is_nobodys_root() -> None:
    text = (INFRA / "images" / "stepmesh" / "Dockerfile").read_text()
    extras = re.search(r'"/src\[([\w,]+)\]"', text)
    assert extras is not None
    project = (INFRA.parent / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras[1].split(","))
    assert {"server", "otel", "kafka", "postgres", "redis"} <= set(extras[1].split(","))
    last = text.rpartition("FROM ")[2]
    assert re.search(r"^USER 10001$", last, re.M)
    assert "COPY . " not in last
    kept = (INFRA / "images" / "stepmesh" / "Dockerfile.dockerignore").read_text().split()
    assert all((INFRA.parent / name[1:]).exists() for name in kept if name.startswith("!"))
