"""docs/server.md: its session with a real server, its limits and flags against the source."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from tests.documentation.page import Page, rehearse

from stepmesh_cli.doors import DEFAULT_PORT
from stepmesh_cli.main import main
from stepmesh_cli.processes import BACKOFF_S
from stepmesh_gateway.rpc import nats_line
from stepmesh_gateway.settings import GatewaySettings, Limits

PAGE = Page.of("docs/server.md")


@pytest.mark.acceptance
def test_the_session_is_as_shown(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert rehearse(Page(PAGE.text.replace(str(DEFAULT_PORT), str(port))), tmp_path) >= 5


def test_the_table_of_limits_is_the_source() -> None:
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+) \| `(\w+)` \|", PAGE.text.split("\n## Limits\n")[1], re.M)
    assert {name: float(value.replace(",", "")) for value, name in rows} == {
        name: getattr(Limits(), name) for name in Limits.__struct_fields__
    }


def test_figures_in_the_text_are_the_source() -> None:
    settings = GatewaySettings()
    first, most = BACKOFF_S
    assert f"at most {nats_line.WINDOW} tasks at a time" in PAGE.text
    assert f"not begun within {nats_line.TAKEN_S:g} s" in PAGE.text
    assert f"nothing is heard for {settings.queue_silent_s:g} s" in PAGE.text
    assert f"started again after {first:g} s" in PAGE.text
    assert f"up\nto {most:g} s" in PAGE.text


def test_every_flag_is_one_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["server", "--help"])
    told = capsys.readouterr().out
    rows = [row for row in PAGE.text.splitlines() if row.startswith("| `-")]
    flags = {flag for row in rows for flag in re.findall(r"`(--[a-z-]+)`", row)}
    names = {name for row in rows for name in re.findall(r"`(STEP[A-Z_]+)`", row)}
    assert flags == set(re.findall(r"(--[a-z-]+)", told)) - {"--help", "--debug"}
    assert names == set(re.findall(r"(STEP(?:MESH|FLOW)_[A-Z_]+)", told))
