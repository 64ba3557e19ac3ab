"""Servers to try things with: `python -m tests.services kafka postgres` starts them, prints their addresses, and ends them with Ctrl-C."""

from __future__ import annotations

import signal
import sys

from tests.services import shared


def main(kinds: list[str]) -> None:
    """Until SIGINT or SIGTERM."""
    unknown = [kind for kind in kinds if kind not in shared.LOCAL]
    if unknown or not kinds:
        sys.exit(f"usage: python -m tests.services KIND…, of: {', '.join(shared.LOCAL)}")
    shared.begin()
    try:
        for kind in kinds:
            print(f"{kind} {shared.url_of(kind)}", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        shared.end()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    main(sys.argv[1:])
