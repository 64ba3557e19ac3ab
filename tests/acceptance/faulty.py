"""A cluster all of whose processes reach the broker through `FaultyBroker`, and the file that says what goes wrong now.

Invariant: a process reads the file at each call, so a fault begins and ends for all of them at once; without the file nothing is wrong.
What was done to which kind of message is written down by whoever did it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random

import msgspec
from tests.acceptance.cluster import ClusterLab, Deployment
from tests.acceptance.processes import HERE
from tests.simulation.faults import HEALED, FaultyBroker, Rates

from stepmesh import endpoint
from stepmesh.client import Client
from stepmesh_broker.ports import Broker

FOLDER, SEED = "STEPMESH_FAULTS", "STEPMESH_FAULT_SEED"


class Faults:
    """What goes wrong for all processes that look into `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "rates.json"
        self._ledger = folder / "done.txt"
        self._changed = 0
        self._rates = HEALED

    @contextmanager
    def going_on(self, rates: Rates) -> Iterator[None]:
        """Inside."""
        self.folder.mkdir(exist_ok=True)
        fresh = self._file.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(asdict(rates)))
        fresh.rename(self._file)
        try:
            yield
        finally:
            self._file.unlink()

    def rates(self) -> Rates:
        """Of now."""
        try:
            changed = self._file.stat().st_mtime_ns
            if changed != self._changed:
                self._rates = msgspec.json.decode(self._file.read_bytes(), type=Rates)
                self._changed = changed
        except FileNotFoundError:
            return HEALED
        return self._rates

    def wrap(self, broker: Broker, random: Random) -> FaultyBroker:
        """`random`: the coin of its process."""
        self.folder.mkdir(exist_ok=True)
        ledger = os.open(self._ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return FaultyBroker(broker, self.rates, random, lambda fault, kind: _write(ledger, f"{fault} {kind}\n"))

    def done(self) -> Counter[tuple[str, str]]:
        """How often which fault befell which kind of message."""
        lines = self._ledger.read_text().splitlines() if self._ledger.exists() else []
        return Counter((fault, kind) for fault, _, kind in (line.partition(" ") for line in lines))


class FaultyLab(ClusterLab):
    """`faults` befall everybody in it."""

    def __init__(self, folder: Path, deployment: Deployment, seed: int) -> None:
        super().__init__(folder, deployment)
        self.is_late = True
        self.launcher = (str(HERE / "faulty_process.py"),)
        self.faults = Faults(folder / "faults")
        self.random = Random(seed)
        self._environment |= {FOLDER: str(self.faults.folder), SEED: str(seed)}

    async def client(self, patience_s: float = 90.0) -> Client:
        """One that is not spared either."""
        where = self.deployment
        broker = self.faults.wrap(endpoint.broker(where.broker, where.namespace), self.random)
        client = await Client(broker, where.namespace, patience_s=patience_s, owned=True)
        self._clients.append(client)
        return client


def _write(file: int, line: str) -> None:
    os.write(file, line.encode())
