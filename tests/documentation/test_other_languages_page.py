"""Workers in other languages: what their pages show is code that is tested, and the example runs as the page says."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests import toolchains
from tests.acceptance.servers import serving
from tests.documentation.page import PROGRAMS, Page, matches
from tests.environments import program

PAGE = Page.of("docs/workers-other-languages.md")
READMES = [Page.of("sdk/typescript/worker/README.md"), Page.of("examples/go-worker/README.md")]
SOURCES = {"ts": ["sdk/typescript/worker/examples/greeter.ts"], "go": ["examples/go-worker/main.go"]}


@pytest.mark.parametrize("page", [PAGE, *READMES], ids=["page", "typescript", "go"])
def test_code_is_that_of_the_examples(page: Page) -> None:
    shown = [fence for fence in page.fences() if fence.language in SOURCES]
    assert shown
    for fence in shown:
        assert any(fence.text in (toolchains.ROOT / path).read_text() for path in SOURCES[fence.language]), fence.text


@pytest.mark.timeout(600)  # the first build installs packages
def test_the_example_says_what_the_page_shows(tmp_path: Path) -> None:
    PAGE.write(tmp_path)
    greeter = str(toolchains.typescript() / "build/examples/greeter.js")
    (command,) = PAGE.commands()
    with (
        serving() as server,
        worker([str(program("node")), greeter], server.address),
        worker([str(toolchains.go("."))], server.address),
    ):
        line = command.line.replace("127.0.0.1:7840", server.address)
        environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert matches(command.shown, done.stdout), done


@pytest.mark.timeout(600)
def test_the_other_components_of_the_example(tmp_path: Path) -> None:
    """`/count` and blobs in both languages, `/pay`, and a loop of sub-runs."""
    flow = {
        "steps": [
            {"id": "ts", "component": "/ts/count", "input": 2},
            {"id": "go", "component": "/go/count", "input": 2},
            {"id": "pay", "component": "/ts/pay", "input": {"cents": 1, "card": "good"}},
            {"id": "no", "component": "/ts/pay", "input": {"cents": 1, "card": "stolen"}, "onError": _told("code")},
            {"id": "letter", "component": "/ts/letter", "input": {"to": "Ada"}},
            {"id": "answer", "component": "/go/letter", "input": {"$step": "letter", "path": "blob"}},
            {
                "id": "read",
                "component": "/ts/read",
                "input": {"blob": {"$step": "answer"}, "kept": {"$step": "letter", "path": "kept"}},
            },
            {"id": "body", "component": "/builtin/put_blob", "input": {"blob_type": "flow", "data": {"$literal": _ROUND}}},
            {"id": "loop", "component": "/ts/until_done", "input": {"flow": {"$step": "body", "path": "blob_id"}, "state": {"n": 3}}},
        ],
        "output": [{"$step": name} for name in ("ts", "go", "no", "loop")]
        + [{"$step": "read", "path": name} for name in ("text", "$.kept.lines")],
    }
    (tmp_path / "flow.json").write_text(json.dumps(flow))
    greeter = str(toolchains.typescript() / "build/examples/greeter.js")
    with (
        serving() as server,
        worker([str(program("node")), greeter], server.address),
        worker([str(toolchains.go("."))], server.address),
    ):
        line = [str(PROGRAMS / "stepmesh"), "submit", "flow.json", "--url", f"grpc://{server.address}", "--wait", "--input-json", "null"]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert json.loads(done.stdout) == {
            "outcome": "success",
            "result": [2, 2, "COMPONENT_FAILED", {"n": 1}, "Dear Ada, thank you.", 1],
        }, done


_ROUND = {"steps": [{"id": "one", "component": "/ts/count", "input": 1}], "output": {"n": {"$step": "one"}}}


def _told(what: str) -> dict[str, object]:
    return {"action": "useDefault", "defaultValue": {"$error": what}}


@contextmanager
def worker(command: Sequence[str], address: str) -> Iterator[None]:
    """A worker process; it must drain in order at the end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEPMESH_")}
    with subprocess.Popen(command, env={**kept, "STEPMESH_URL": f"grpc://{address}"}, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield
        finally:
            process.terminate()
            _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
