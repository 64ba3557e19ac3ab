"""Runs `stepmesh gateway` as a process that never gives up: `python gateway_process.py DATA PORT`; a broker that is away is waited for."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from stepmesh_broker.nats import read_endpoint
from stepmesh_cli import exits
from stepmesh_cli.main import main


def serve(data: Path, port: str) -> int:
    """Until it is told to stop; again when there was no broker to begin with."""
    while True:
        url = read_endpoint(data)
        if url is not None and (code := main(["gateway", "--url", url, "-p", port])) != exits.UNREACHABLE:
            return code
        time.sleep(0.1)


sys.exit(serve(Path(sys.argv[1]), sys.argv[2]))
