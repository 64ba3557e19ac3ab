"""CPU time and peak memory of processes, from /proc (Linux); this process's own from `resource` elsewhere."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """`cpu_s`: user and system seconds since the process began. `rss`, `peak_rss`: bytes."""

    cpu_s: float
    rss: int
    peak_rss: int


def usage(pid: int) -> Usage | None:
    """Of a process; None when it is gone or the system does not tell."""
    folder = Path(f"/proc/{pid}")
    try:
        fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
    except (OSError, IndexError):
        return None
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, _kib(status.get("VmRSS", "0")), _kib(status.get("VmHWM", "0")))


def nats_server_pid(parent: int) -> int | None:
    """The embedded broker's process: the child of `parent` with that name."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            head, tail = (folder / "stat").read_text().rsplit(")", 1)
        except OSError:
            continue  # it ended while we looked
        if head.endswith("(nats-server") and int(tail.split()[1]) == parent:
            return int(folder.name)
    return None


def mib(size: int) -> float:
    """Bytes → MiB, one decimal."""
    return round(size / _MIB, 1)


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024


def own_usage() -> Usage:
    """Of this process; without /proc the present memory is not known, so the peak stands for it."""
    found = usage(os.getpid())
    if found is not None:
        return found
    spent = resource.getrusage(resource.RUSAGE_SELF)
    peak = spent.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Usage(spent.ru_utime + spent.ru_stime, peak, peak)
