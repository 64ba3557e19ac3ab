"""`stepmesh up --dev`: each activation replays, new code is taken up while a run waits, and a mistake in it ends nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.acceptance.test_cli_asking import FLOW, ORDERS
from tests.acceptance.test_cli_up import objects, running, stepmesh

pytestmark = pytest.mark.acceptance

TELLING = ORDERS.replace("    gone = asyncio.Event()\n", "    gone = asyncio.Event()\n    print('delivering begins')\n")


def test_who_writes_code_sees_what_it_does_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    code = Path("orders.py")
    code.write_text(TELLING)
    Path("deliver.json").write_text(json.dumps(FLOW))
    with running("--dev", "--worker", "orders.py") as up:
        run = stepmesh("submit", "deliver.json", "--input-json", '"here"').strip()
        up.until("[orders] delivering begins")
        assert stepmesh("update", run, "change", "--json-args", '" there "') == '"there"\n'
        up.until("[orders] delivering begins")  # a body that is kept alive would not begin again
        code.write_text(TELLING.replace("return address\n\n    @wf.update", "return address.upper()\n\n    @wf.update", 1))
        up.until("orders.py changed: workers start again")
        up.until("[orders] worker of pool orders")
        assert stepmesh("query", run, "state") == '"THERE"\n'
        code.write_text(TELLING + "\nworker = app.walker()\n")
        up.until("AttributeError")
        code.write_text(TELLING)
        up.until("[orders] worker of pool orders")
        assert stepmesh("update", run, "leave") == "null\n"
        objects("events", run, "--follow")
        up.process.terminate()
        exit_code, said = up.end()
    assert exit_code == 0
    assert "Traceback" not in said
