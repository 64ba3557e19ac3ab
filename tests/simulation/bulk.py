"""Many random histories: `python -m tests.simulation.bulk 100000 [first seed]`, or `just histories 100000`.

One process per core, each its share of the seeds. A difference is printed with its seed, which alone repeats it:
`python -m tests.simulation.bulk 1 SEED`. Exit status 1 when there was any.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.simulation.driver import World
from tests.simulation.flows import Seeded
from tests.simulation.history import describe, make_world, play

CHUNK = 500


@dataclass
class Tally:
    """What came of some histories. `differences`: seed → report. `reached`: how often each action, and each kind of event, was seen."""

    histories: int = 0
    differences: dict[int, str] = field(default_factory=dict)
    reached: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Sum up."""
        self.histories += other.histories
        self.differences.update(other.differences)
        self.reached.update(other.reached)


def run_seeds(first: int, count: int) -> Tally:
    """The histories of these seeds."""
    tally = Tally()
    for seed in range(first, first + count):
        choices = Seeded(seed)
        world = make_world(choices)
        try:
            play(world)
        except Exception:
            tally.differences[seed] = f"seed {seed}\n{describe(world)}\n{traceback.format_exc()}"
        tally.histories += 1
        tally.reached.update(_reached(world))
    return tally


def _reached(world: World) -> Counter[str]:
    return world.actions + Counter(type(event).__name__ for event in world.journaled())


def run_parallel(count: int, first: int = 0, workers: int | None = None) -> Tally:
    """Seeds from `first` on, over all cores."""
    chunks = [(at, min(CHUNK, first + count - at)) for at in range(first, first + count, CHUNK)]
    tally = Tally()
    with ProcessPoolExecutor(min(workers or os.cpu_count() or 1, len(chunks))) as pool:
        for part in pool.map(run_seeds, *zip(*chunks, strict=True)):
            tally.add(part)
    return tally


def main(arguments: list[str]) -> int:
    """Count, and perhaps the first seed."""
    count, first = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 0
    began = time.monotonic()
    tally = run_parallel(count, first)
    for report in list(tally.differences.values())[:5]:
        print(report)
    spent = time.monotonic() - began
    print("reached:", ", ".join(f"{name} {times}" for name, times in tally.reached.most_common()))
    print(f"{tally.histories / spent:.0f} histories/s, seeds {first} to {first + count - 1}; differing: {sorted(tally.differences)[:20]}")
    print(f"histories: {tally.histories}, differences: {len(tally.differences)}")
    return 1 if tally.differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
