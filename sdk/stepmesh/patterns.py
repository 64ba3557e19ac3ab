"""Component paths with parameters: `/models/{name}/run`, `/files/{*rest}`. Pure.

A literal segment goes before `{name}`, and that before a last `{*rest}`, whatever the order of registration.
"""

from __future__ import annotations


class Pattern:
    """`path` with at least one parameter."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._segments = _segments(path)
        last = self._segments[-1]
        self._rest = last[2:-1] if last.startswith("{*") else None
        if self._rest is not None:
            self._segments.pop()

    @property
    def weight(self) -> tuple[bool, int, list[bool]]:
        """Of several that match, the one with the least goes first."""
        return self._rest is not None, -len(self._segments), [segment.startswith("{") for segment in self._segments]

    def match(self, path: str) -> dict[str, str] | None:
        """The parameters of a path; None when it is another one."""
        given = _segments(path)
        if len(given) < len(self._segments) or (self._rest is None) != (len(given) == len(self._segments)):
            return None
        params: dict[str, str] = {}
        for wanted, segment in zip(self._segments, given, strict=False):
            if wanted.startswith("{"):
                params[wanted[1:-1]] = segment
            elif wanted != segment:
                return None
        if self._rest is not None:
            params[self._rest] = "/".join(given[len(self._segments) :])
        return params


def has_parameters(path: str) -> bool:
    """Whether it is a pattern."""
    return "{" in path


def _segments(path: str) -> list[str]:
    return path.strip("/").split("/")
