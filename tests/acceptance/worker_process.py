"""Runs the ledger worker as a process that never gives up: `python worker_process.py DATA [HOST:PORT]`; a broker that is away, or the
gateway at that address, is waited for."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ledger_worker import worker

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.nats import read_endpoint


def main(data: Path, gateway: str | None = None) -> None:
    """Serve; again when there was no broker to begin with."""
    while True:
        url = read_endpoint(data) if gateway is None else f"grpc://{gateway}"
        try:
            if url is not None:
                worker.serve(url)
                return
        except BrokerUnavailable as problem:
            print(problem, file=sys.stderr, flush=True)
        time.sleep(0.1)


main(Path(sys.argv[1]), *sys.argv[2:])
