"""The data folder of a deployment: who owns it, and the number of partitions that it was made with.

Invariant: one live process owns a folder (a lock on `<data>/stepmesh.lock`, which the system releases however that process ends).
It must not know what broker, journal and store keep in there.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from stepmesh_cli.errors import DataFolderInUse, DataFolderUnusable, PartitionsDiffer

LOCK = "stepmesh.lock"
FACTS = "deployment.json"


class DataFolder:
    """`own`, then the rest, then `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def own(self) -> None:
        """Make and lock the folder. Raises `DataFolderInUse`, `DataFolderUnusable`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as problem:
            raise DataFolderUnusable.of(self.path, problem) from problem
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            owner = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise DataFolderInUse.of(self.path, owner) from problem
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._lock = lock

    def partitions(self, wanted: int | None) -> int:
        """The number that the folder was made with; a new folder keeps `wanted` (None: 1). Raises `PartitionsDiffer`."""
        facts = self.path / FACTS
        try:
            if not facts.exists():
                fresh = facts.with_name(f"{FACTS}.new")
                fresh.write_text(json.dumps({"partitions": wanted or 1}))
                fresh.replace(facts)
            kept = int(json.loads(facts.read_text())["partitions"])
        except OSError as problem:
            raise DataFolderUnusable.of(self.path, problem) from problem
        except (ValueError, KeyError, TypeError) as problem:
            raise PartitionsDiffer(f"{facts} does not name the number of partitions", hint='write {"partitions": N} as it was') from problem
        if wanted not in (None, kept):
            raise PartitionsDiffer(
                f"{self.path} was made with {kept} partitions, not {wanted}", hint=f"set partitions to {kept}, or use another data folder"
            )
        return kept

    def release(self) -> None:
        """Give the folder up. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def owner_of(path: Path) -> str | None:
    """The process that owns a data folder now; None when it is free, absent or cannot be read."""
    try:
        lock = os.open(path / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(lock)
    return None
