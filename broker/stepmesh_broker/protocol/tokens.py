"""Tokens that settle a wait from outside: text that may stand in a URL or a mail, and names the run and what waits in it.

Invariant: a token is a function of what it names, so a replay makes the same one, and nothing needs to be kept to find what it is for.
Whoever has it may settle that wait and nothing else; its secret is the random part of the run's id.
"""

from __future__ import annotations

import base64

_MARK = "w1"
"""Format of a token."""


def promise_token(run: str, wait: str) -> str:
    """`wait`: id of the command, or step, that waits."""
    return f"{_MARK}.{run}.{base64.urlsafe_b64encode(wait.encode()).decode().rstrip('=')}"


def read_token(token: str) -> tuple[str, str]:
    """(run, what waits in it). Raises `ValueError` for what is no token."""
    mark, _, rest = token.partition(".")
    run, _, coded = rest.partition(".")
    if mark != _MARK or not run or not coded:
        raise ValueError("no token of a wait")
    try:
        return run, base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True).decode()
    except ValueError as problem:  # binascii.Error and UnicodeDecodeError among them
        raise ValueError("no token of a wait") from problem
