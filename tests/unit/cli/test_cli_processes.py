"""Worker processes, real ones: their output, restarts, giving up, draining."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stepmesh_cli.errors import WorkerProcessFailed
from stepmesh_cli.processes import BACKOFF_S, MAX_LINE, Supervisor, WorkerProcess

WAIT_S = 30


class Heard:
    """What a supervisor says and reports, awaited line by line."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def line(self, ending: str) -> str:
        while not (line := await asyncio.wait_for(self.lines.get(), WAIT_S)).endswith(ending):
            pass
        return line

    async def failure(self) -> BaseException:
        return await asyncio.wait_for(asyncio.shield(self.failed), WAIT_S)


@asynccontextmanager
async def supervised(*processes: WorkerProcess, grace_s: float = 20.0) -> AsyncIterator[tuple[Supervisor, Heard]]:
    heard = Heard()
    supervisor = Supervisor({"TOLD": "all"}, heard.lines.put_nowait, heard.failed.set_result)
    supervisor.start(processes)
    try:
        yield supervisor, heard
    finally:
        await supervisor.stop(grace_s)


def python(code: str, label: str = "w", **environment: str) -> WorkerProcess:
    return WorkerProcess(label, (sys.executable, "-c", code), environment)


STAYS = "import signal\nprint('here')\nsignal.pause()"
POLITE = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: (print('drained'), sys.exit(0)))\nprint('here')\nsignal.pause()"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('never'))\nprint('here')\nwhile True: signal.pause()"


async def test_output_comes_line_by_line_with_the_label_and_environment() -> None:
    code = "import os, sys, signal\nprint(os.environ['TOLD'], os.environ['MINE'])\nprint('error', file=sys.stderr)\nsignal.pause()"
    async with supervised(python(code, "cpu.1", MINE="this")) as (_, heard):
        assert await heard.line("this") == "[cpu.1] all this"
        assert await heard.line("error") == "[cpu.1] error"


async def test_a_process_that_ends_starts_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    once = "if not os.path.exists('been'): open('been', 'w'); print('last words'); sys.exit(5)"
    code = f"import os, sys, signal\n{once}\nprint('again')\nsignal.pause()"
    process = WorkerProcess("w", (sys.executable, "-c", code), folder=str(tmp_path))
    with caplog.at_level(logging.WARNING, "stepmesh.workers"):
        async with supervised(process) as (supervisor, heard):
            await heard.line("again")
            assert list(supervisor.pids) == ["w"]
    assert "ended with code 5" in caplog.text
    assert "last words" in caplog.text


async def test_a_killed_process_starts_again() -> None:
    async with supervised(python(STAYS)) as (supervisor, heard):
        await heard.line("here")
        first = supervisor.pids["w"]
        os.kill(first, 9)
        await heard.line("here")
        assert supervisor.pids["w"] != first


@pytest.mark.parametrize(
    ("process", "code"),
    [
        (python("import sys; print('SM-0106 no such module'); sys.exit(2)"), 2),
        (WorkerProcess("w", ("/nowhere/program",)), 127),
    ],
)
async def test_what_cannot_get_better_is_given_up(process: WorkerProcess, code: int) -> None:
    async with supervised(process) as (supervisor, heard):
        problem = await heard.failure()
        assert isinstance(problem, WorkerProcessFailed)
        assert f"worker w ended with code {code} and is not started again" in problem.message
        assert ("SM-0106 no such module" if code == 2 else "/nowhere/program: No such file") in problem.message
        assert supervisor.pids == {}


async def test_one_that_is_not_needed_is_tried_again_after_the_longest_pause(caplog: pytest.LogCaptureFixture) -> None:
    ended: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    supervisor = Supervisor({}, lambda _: None, pytest.fail, lambda process, what: ended.put_nowait((process.label, what)))
    with caplog.at_level(logging.WARNING, "stepmesh.workers"):
        supervisor.start([WorkerProcess("w", ("/nowhere/program",), needed=False)])
        label, what = await asyncio.wait_for(ended.get(), WAIT_S)
        await supervisor.stop(1)
    assert (label, what) == ("w", "worker w ended with code 127; last lines: /nowhere/program: No such file or directory")
    assert f"starts again in {BACKOFF_S[1]:.1f} s" in caplog.text


async def test_the_pause_doubles_while_starts_fail(caplog: pytest.LogCaptureFixture) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()
    supervisor = Supervisor({}, lambda _: None, pytest.fail, lambda _, what: ended.put_nowait(what))
    with caplog.at_level(logging.WARNING, "stepmesh.workers"):
        supervisor.start([WorkerProcess("w", ("false",), needed=False)])
        for _ in range(3):
            assert await asyncio.wait_for(ended.get(), WAIT_S) == "worker w ended with code 1; last lines: "
        await supervisor.stop(1)
    assert [record.args[1] for record in caplog.records if record.args] == [0.1, 0.2, 0.4]  # type: ignore[index]


async def test_a_cancelled_stop_kills_what_is_left() -> None:
    heard = Heard()
    supervisor = Supervisor({}, heard.lines.put_nowait, heard.failed.set_result)
    supervisor.start([python(STUBBORN)])
    await heard.line("here")
    pid = supervisor.pids["w"]
    stop = asyncio.create_task(supervisor.stop(60))
    await asyncio.sleep(0)
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    assert not await alive(pid)


async def test_stop_lets_processes_drain() -> None:
    async with supervised(python(POLITE, "a"), python(POLITE, "b")) as (supervisor, heard):
        await heard.line("here")
        await heard.line("here")
    assert {await heard.line("drained"), await heard.line("drained")} == {"[a] drained", "[b] drained"}
    assert supervisor.pids == {}


async def test_a_stubborn_process_is_killed_after_the_grace(caplog: pytest.LogCaptureFixture) -> None:
    async with supervised(python(STUBBORN), grace_s=0.2) as (supervisor, heard):
        await heard.line("here")
        pid = supervisor.pids["w"]
    assert "did not drain within 0.2 s" in caplog.text
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_new_code_is_taken_up_in_order_and_without_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    async with supervised(python(POLITE)) as (supervisor, heard):
        await heard.line("here")
        first = supervisor.pids["w"]
        supervisor.renew()
        await heard.line("drained")
        await heard.line("here")
        assert supervisor.pids["w"] != first
    assert "starts again" not in caplog.text, "it ended because it was told to"


async def test_new_code_ends_the_pause_of_one_that_could_not_be_started(tmp_path: Path) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()
    lines: asyncio.Queue[str] = asyncio.Queue()
    supervisor = Supervisor({}, lines.put_nowait, pytest.fail, lambda _, what: ended.put_nowait(what))
    code = tmp_path / "code.py"
    code.write_text("import sys; sys.exit(2)")
    supervisor.start([WorkerProcess("w", (sys.executable, str(code)), needed=False)])
    await asyncio.wait_for(ended.get(), WAIT_S)
    code.write_text(STAYS)
    supervisor.renew()
    assert await asyncio.wait_for(lines.get(), BACKOFF_S[1] / 2) == "[w] here"
    await supervisor.stop(5)


async def test_what_a_killed_process_started_goes_too() -> None:
    code = f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}])\nprint('child', child.pid)\n{STUBBORN}"
    async with supervised(python(code), grace_s=0.2) as (_, heard):
        child = int((await heard.line("")).rpartition(" ")[2])
        await heard.line("here")
    assert not await alive(child)


async def alive(pid: int) -> bool:
    """Whether the process is there, once it had a moment to end."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        await asyncio.sleep(0.01)
    return True


async def test_a_line_without_end_is_dropped_and_the_next_one_heard() -> None:
    code = f"import signal\nprint('x' * {2 * MAX_LINE})\nprint('after')\nsignal.pause()"
    async with supervised(python(code)) as (_, heard):
        assert await heard.line("after") == "[w] after"


async def test_stop_during_the_pause_does_not_wait_for_it() -> None:
    async with supervised(python("import sys; sys.exit(3)")) as (supervisor, _):
        await asyncio.sleep(0)
    assert supervisor.pids == {}
