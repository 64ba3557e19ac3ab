"""`stepmesh server` as a user starts it, and the real client that talks to it, for tests."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).parent
READY_S = 60.0
CALL_S = 60.0


class CallFailed(Exception):
    """What the client raised. `status` and `details` of a gRPC error, else None and its text."""

    def __init__(self, status: str | None, details: str) -> None:
        super().__init__(f"{status}: {details}")
        self.status = status
        self.details = details


class Server:
    """`with Server(folder, config) as server:`; `address`: host:port. `data`: a journal that outlives the process."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *, port: int = 0, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.port = port
        self.marks = folder / "marks"
        self.marks.mkdir(parents=True, exist_ok=True)
        self.log = folder / "server.log"
        self._config = folder / "stepflow-config.yml"
        self._config.write_text(json.dumps(config))
        self._environment = {**os.environ, "INTEROP_MARKS": str(self.marks), **(environment or {})}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when it said its port, and nothing else, on stdout."""
        command = [sys.executable, "-X", "faulthandler", "-m", "stepmesh_cli", "server", "-p", str(self.port), "-c", str(self._config)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, cwd=self.folder, env=self._environment, text=True, start_new_session=True
            )
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], READY_S)[0]:
            self.kill()
            raise TimeoutError(self.log.read_text())
        line = self._process.stdout.readline()
        assert line, self.log.read_text()
        self.port = json.loads(line)["port"]

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()

    def kill(self) -> None:
        """SIGKILL, the server alone: its workers find out by themselves."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def marked(self, name: str) -> list[str]:
        """Lines that components wrote to a file of theirs."""
        file = self.marks / name
        return file.read_text().splitlines() if file.exists() else []

    def until_marked(self, name: str, times: int = 1, timeout_s: float = 30.0) -> None:
        """Returns when a component has marked it."""
        until = time.monotonic() + timeout_s
        while len(self.marked(name)) < times:
            assert time.monotonic() < until, f"{name} was marked {len(self.marked(name))} times: {self.log.read_text()[-4000:]}"
            select.select([], [], [], 0.02)


class Driver:
    """The real `StepflowClient` in a process of its own. `driver("run", flow_id=…)` calls its method `run`."""

    def __init__(self, python: Path, address: str) -> None:
        self._numbers = count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._process = subprocess.Popen(
            [str(python), str(HERE / "driver.py"), address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def __call__(self, call: str, **options: Any) -> Any:
        """The call's result as JSON. Raises `CallFailed`."""
        return self.result(self.begin(call, **options))

    def rpc(self, service: str, method: str, **request: Any) -> Any:
        """One RPC by its message's JSON form, for what the client has no method."""
        return self("rpc", service=service, method=method, request=request)

    def begin(self, call: str, **options: Any) -> int:
        """Start a call; `result` waits for it."""
        number = next(self._numbers)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "call": call, "options": options}) + "\n")
        self._process.stdin.flush()
        return number

    def result(self, number: int) -> Any:
        """What a begun call came to. Raises `CallFailed`."""
        assert self._process.stdout is not None
        while number not in self._answers:
            assert select.select([self._process.stdout], [], [], CALL_S)[0], "the client does not answer"
            line = self._process.stdout.readline()
            assert line, "the client ended"
            told = json.loads(line)
            self._answers[told["id"]] = told
        told = self._answers.pop(number)
        if "result" in told:
            return told["result"]
        raise CallFailed(told.get("status"), told.get("details") or told.get("problem") or "")

    def store(self, *steps: Mapping[str, Any], output: Any = None, **more: Any) -> str:
        """Store a flow of these steps; its id. The output is the last step's unless given."""
        last = {"$step": steps[-1]["id"]} if steps else {"$input": "$"}
        document = {"name": "interop", "description": "a test", "steps": list(steps), "output": last if output is None else output, **more}
        stored = self("store_flow", flow=document)
        assert stored.get("stored"), stored
        flow: str = stored["flow_id"]
        return flow

    def run(self, flow: str, *inputs: Any, **options: Any) -> list[dict[str, Any]]:
        """Run a flow and wait; its item results."""
        results: list[dict[str, Any]] = self("run", flow_id=flow, input_data=list(inputs), **options)["results"]
        return results

    def one(self, component: str, input: Any, **step: Any) -> dict[str, Any]:
        """Run one component on one input; the item's result."""
        flow = self.store({"id": "only", "component": component, "input": {"$input": "$"}, **step})
        return self.run(flow, input)[0]
