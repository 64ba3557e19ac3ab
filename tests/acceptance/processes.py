"""A deployment of real processes for fault tests: `stepmesh up`, workers and nats-server, to be killed, stopped and started again.

Everything that a `Lab` started is gone after `close`. It knows processes, files and signals; what runs mean is audit.py's.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from stepmesh.client import Client
from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.nats import read_endpoint

HERE = Path(__file__).parent
PYTHON = (sys.executable, "-X", "faulthandler")
CONFIG = "retry:\n  transportMaxRetries: {retries}\n  backoff: {{type: constant, initial: 200ms, jitter: 0}}\n"
READY_S = 40.0


class Process:
    """One child process and the file that holds its output."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **environment}, start_new_session=True
            )
        self.pid = self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def send(self, sign: signal.Signals) -> None:
        """A signal, unless it ended."""
        if self.alive:
            self._popen.send_signal(sign)

    def kill(self) -> None:
        """SIGKILL, and reap."""
        self.send(signal.SIGKILL)
        self._popen.wait()

    async def ended(self, timeout_s: float = 30.0) -> int:
        """Its exit code. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            while (code := self._popen.poll()) is None:
                await asyncio.sleep(0.02)
        return code

    def output(self) -> str:
        """All that it and its predecessors of the same name wrote."""
        return self.log.read_text(errors="replace")


class Lab:
    """`async with Lab(folder) as lab:`. `launcher`: the program that runs the orchestrator, `-m stepmesh_cli up` by default."""

    def __init__(
        self, folder: Path, *, data: Path | None = None, retries: int = 1_000, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.data = data or folder / "data"
        self.ledger = folder / "ledger.txt"
        self.launcher: tuple[str, ...] = ("-m", "stepmesh_cli")
        self.workers: list[Process] = []
        self.gateways: list[Process] = []
        self._worker_programs: list[tuple[str, str]] = []
        self._gateway_ports: list[int] = []
        self.orchestrator: Process | None = None
        self._environment = {"STEPMESH_LEDGER": str(self.ledger), "PYTHONUNBUFFERED": "1", **(environment or {})}
        self._processes: list[Process] = []
        self._clients: list[Client] = []
        self._config = folder / "stepmesh.yaml"
        self._config.write_text(CONFIG.format(retries=retries))

    async def __aenter__(self) -> Self:
        """Nothing runs yet."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        """Everything ends, whatever a client says to that."""
        try:
            async with AsyncExitStack() as stack:
                for client in self._clients:
                    stack.push_async_callback(client.close)
        finally:
            for process in self._processes:
                process.send(signal.SIGCONT)
                process.kill()
            for pid in self.leftovers():
                os.kill(pid, signal.SIGKILL)

    # --- start --------------------------------------------------------------------------------------------------

    def spawn(self, name: str, *arguments: str, **environment: str) -> Process:
        """A Python program of ours; its output goes to `<name>.log`."""
        process = Process(name, [*PYTHON, *arguments], self.folder / f"{name}.log", {**self._environment, **environment})
        self._processes.append(process)
        return process

    def start_orchestrator(self, name: str = "up", **environment: str) -> Process:
        """Begin to start it; `ready` waits."""
        process = self.spawn(
            name, *self.launcher, "up", "--data", str(self.data), "--config", str(self._config), "--partitions", "2", **environment
        )
        self.orchestrator = process
        return process

    def start_worker(self, *, gateway: int | None = None, program: str = "worker_process.py") -> Process:
        """One more worker process; it waits for the broker, or the gateway with that index, by itself (see worker_process.py)."""
        address = "" if gateway is None else f"127.0.0.1:{self._gateway_ports[gateway]}"
        self._worker_programs.append((program, address))
        self.workers.append(self._spawn_worker(len(self.workers)))
        return self.workers[-1]

    def restart_worker(self, index: int) -> None:
        """A new process in the place of a dead one."""
        self.workers[index] = self._spawn_worker(index)

    def _spawn_worker(self, index: int) -> Process:
        program, address = self._worker_programs[index]
        return self.spawn(f"worker{index}", str(HERE / program), str(self.data), *([address] if address else []))

    def start_gateway(self) -> Process:
        """One more gateway, on a port that it keeps when it is started again."""
        self._gateway_ports.append(free_port())
        self.gateways.append(self._spawn_gateway(len(self.gateways)))
        return self.gateways[-1]

    def restart_gateway(self, index: int) -> None:
        """A new process in the place of a dead one, on the same port."""
        self.gateways[index] = self._spawn_gateway(index)

    def _spawn_gateway(self, index: int) -> Process:
        return self.spawn(f"gateway{index}", str(HERE / "gateway_process.py"), str(self.data), str(self._gateway_ports[index]))

    async def client(self, patience_s: float = 90.0) -> Client:
        """A client on a connection of its own, once the deployment answers."""
        async with asyncio.timeout(READY_S):
            while (client := await self._connected(patience_s)) is None:
                if self.orchestrator is not None and not self.orchestrator.alive:
                    raise RuntimeError(self.orchestrator.output())
                await asyncio.sleep(0.05)
        self._clients.append(client)
        await client.requests.info()
        return client

    async def _connected(self, patience_s: float) -> Client | None:
        """None while there is no broker, or when it was killed in the middle of the connecting."""
        url = read_endpoint(self.data)
        if url is None:
            return None
        try:
            return await Client.connect(url, patience_s=patience_s)
        except BrokerUnavailable:
            return None

    # --- kill ---------------------------------------------------------------------------------------------------

    @property
    def nats_pid(self) -> int:
        """Of the running nats-server; 0 when there is none."""
        return next((pid for pid in self.leftovers() if "nats-server" in command_line(pid)), 0)

    def kill_nats(self) -> None:
        """SIGKILL the broker, if it runs."""
        if pid := self.nats_pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def leftovers(self) -> list[int]:
        """Processes that name the data folder in their command line."""
        return [
            int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and str(self.data) in command_line(int(entry.name))
        ]

    # --- look ---------------------------------------------------------------------------------------------------

    def executions(self) -> list[tuple[str, str, int, str, int, int, int]]:
        """Ledger lines: (start or end, run, item, step id, attempt, pid, ms)."""
        lines: list[tuple[str, str, int, str, int, int, int]] = []
        text = self.ledger.read_text() if self.ledger.exists() else ""
        for line in text.rpartition("\n")[0].splitlines():  # the last one may be half written
            kind, run, item, step, attempt, pid, at_ms = line.split()
            lines.append((kind, run, int(item), step, int(attempt), int(pid), int(at_ms)))
        return lines

    def starts(self, step: str) -> int:
        """How often a step with this id was begun."""
        return sum(kind == "start" and step == name for kind, _, _, name, *_ in self.executions())


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command_line(pid: int) -> str:
    """How a process was called; "" when it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def until(what: str, condition: object, timeout_s: float = 30.0) -> None:
    """Wait until the callable `condition` gives something true. Raises `TimeoutError` that names it."""
    assert callable(condition)
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise TimeoutError(f"{what}: not within {timeout_s:g} s") from None


def as_json(text: bytes) -> object:
    """A FlowResult."""
    return json.loads(text)
