"""A declared durability against what the journal gives."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from stepmesh_broker.protocol.api import Info
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.durability import Durability, require
from stepmesh_cli.errors import DurabilityLess
from stepmesh_cli.main import main
from stepmesh_cli.submit import accepted
from stepmesh_orchestrator.journal import MemoryJournal
from stepmesh_orchestrator.ports import Journal


class Giving(MemoryJournal):
    """A journal that declares what it is told."""

    def __init__(self, gives: Durability) -> None:
        super().__init__()
        self.gives: Durability = gives

    @property
    def durability(self) -> Durability:
        return self.gives

    @property
    def survives(self) -> str:
        return f"what {self.gives} says"


LEVELS: tuple[Durability, ...] = get_args(Durability)


@pytest.mark.parametrize("gives", LEVELS)
@pytest.mark.parametrize("declared", [None, *LEVELS])
def test_only_what_is_less_is_refused(declared: Durability | None, gives: Durability) -> None:
    journal: Journal = Giving(gives)
    if declared in (None, "process", gives):
        require(declared, journal, "redis://host")
        return
    with pytest.raises(DurabilityLess, match=f"gives {gives}") as caught:
        require(declared, journal, "redis://:secret@host")
    assert caught.value.code == "SM-0153"
    assert f"which survives what {gives} says" in caught.value.message
    assert f"declare {gives}" in caught.value.hint
    assert "secret" not in str(caught.value)


def test_a_submit_says_what_would_be_lost_and_when() -> None:
    info = Info("1", Namespace("n"), 1, "process", "j", {}, survives="the crash of every process; power loss takes two minutes")
    assert accepted(info) == "accepted (process): it survives the crash of every process; power loss takes two minutes"
    assert accepted(msgspec.structs.replace(info, survives="")) == "accepted (process): it survives what its deployment says"


async def test_a_deployment_does_not_start_with_less(tmp_path: Path) -> None:
    deployment = Deployment(DeploymentSettings(journal="memory", durability="fsync", data_dir=tmp_path))
    with pytest.raises(DurabilityLess, match="any run, when this process ends"):
        await deployment.start()
    async with Deployment(DeploymentSettings(journal="sqlite", durability="fsync", data_dir=tmp_path)) as started:
        assert started.node.ports.journal.durability == "fsync"


def test_the_command_line_says_what_would_be_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--data", str(tmp_path), "--journal", "memory", "--durability", "fsync", "--http", "0"]) != 0
    told = capsys.readouterr().err
    assert "SM-0153" in told
    assert "does not promise to keep any run" in told


def test_a_configuration_declares_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yml"
    config.write_text("{durability: replicated, storageConfig: {type: inMemory}}")
    assert main(["server", "-p", "0", "-c", str(config)]) != 0
    assert "SM-0153" in capsys.readouterr().err
