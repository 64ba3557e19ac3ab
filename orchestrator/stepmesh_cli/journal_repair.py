"""`stepmesh journal repair`: a file is written anew beside its damaged copy; of a server all is copied to a file before anything goes.

Invariant: what goes was shown, and is in a copy that is on the disk. On a server nothing changes without `--yes`.
"""

from __future__ import annotations

import json as json_text
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from stepmesh_broker.protocol.ids import Partition
from stepmesh_cli.errors import CommandError
from stepmesh_cli.journal_source import FileSource, ServerSource
from stepmesh_orchestrator.journal.repair import Finding, Repairable, examine
from stepmesh_orchestrator.journal.salvage import Cut, Piece
from stepmesh_orchestrator.journal.sqlite_repair import repair


class Done(NamedTuple):
    """`repaired`: something was changed; `copy` then has what was there before. `trouble` concerns a whole file."""

    repaired: bool
    copy: Path | None
    cuts: list[Cut]
    trouble: list[str]


def repair_file(source: FileSource) -> Done:
    """Write what verifies to a new file."""
    done = repair(source.file)
    return Done(done.copy is not None, done.copy, done.cuts, done.trouble)


async def repair_server(source: ServerSource, backup: Path | None, *, yes: bool) -> Done:
    """Look at every partition; with `yes` copy those that are damaged, then cut them."""
    async with source.opened() as journal:
        found = {partition: finding for partition in await journal.partitions() if (finding := await examine(journal, partition))}
        cuts = [finding.cut for finding in found.values()]
        if not found or not yes:
            return Done(False, None, cuts, [])
        copy = await _copied(journal, found, backup or _unused(source.namespace))
        for partition, finding in found.items():
            await journal.keep(partition, finding.seen, finding.kept)
        return Done(True, copy, cuts, [])


def print_done(source: FileSource | ServerSource, done: Done, *, as_json: bool) -> None:
    """What was done, or would be."""
    if as_json:
        print(json_text.dumps({**done._asdict(), "copy": done.copy and str(done.copy), "cuts": [cut._asdict() for cut in done.cuts]}))
        return
    for trouble in done.trouble:
        print(f"trouble: {trouble}")
    for cut in done.cuts:
        print(_cut(cut, "now" if done.repaired else "after a repair"))
    print(f"{source.name}: {_outcome(source, done)}")


def _outcome(source: FileSource | ServerSource, done: Done) -> str:
    if isinstance(source, FileSource):
        return f"repaired; the damaged file is {done.copy}" if done.repaired else "nothing is wrong, nothing was changed"
    if done.repaired:
        return f"repaired; all that was there is in {done.copy}"
    return f"nothing was changed; to repair: stepmesh journal repair {source.flags} --yes" if done.cuts else "nothing is wrong"


def _cut(cut: Cut, when: str) -> str:
    kept = f"frames {cut.first} to {cut.last}" if cut.last >= cut.first else "no frames"
    return f"partition {cut.partition}: had frames up to {cut.last_before}, has {kept} {when}: {cut.reason}"


async def _copied(journal: Repairable, found: dict[Partition, Finding], path: Path) -> Path:
    """A JSON object per line, bytes in base64; on the disk when it returns."""
    try:
        with path.open("xb") as file:
            for partition in found:
                async for line in _lines(partition, journal.pieces(partition)):
                    file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        raise CommandError(
            f"no copy can be written to {path}: {problem.strerror or problem}", hint="name another file with --backup; nothing was changed"
        ) from problem
    return path


async def _lines(partition: Partition, pieces: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        told: dict[str, Any] = {"partition": partition, "kind": piece.kind, "number": piece.number, **piece.fields}
        yield msgspec.json.encode(told) + b"\n"


def _unused(namespace: str) -> Path:
    number = 1
    while (path := Path(f"stepmesh-journal-{namespace}-{number}.jsonl")).exists():
        number += 1
    return path
