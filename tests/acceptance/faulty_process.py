"""The command line, every broker connection of which goes through `FaultyBroker`: STEPMESH_FAULTS, STEPMESH_FAULT_SEED (see faulty.py).
The product has no such hook."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.acceptance.faulty import FOLDER, SEED, Faults

from stepmesh import endpoint
from stepmesh_cli.main import main

_faults = Faults(Path(os.environ[FOLDER]))
_random = Random(f"{os.environ[SEED]}/{sys.argv[1]}")
_real = endpoint.broker


def _faulty(url: str, namespace: str) -> Any:
    return _faults.wrap(_real(url, namespace), _random)


endpoint.broker = _faulty
sys.exit(main(sys.argv[1:]))
