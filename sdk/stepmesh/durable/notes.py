"""What a body writes down for others to see: values on a stream, attributes and tags of its run. Nobody answers, so nothing is waited for.

Invariant: a note is a record like any other, in its order, and small: what is large belongs into a blob, whose id is the note.
"""

from __future__ import annotations

from typing import Any

from stepmesh.durable.callsite import here
from stepmesh.durable.execution import Execution
from stepmesh.durable.steps import running
from stepmesh.durable.values import journaled
from stepmesh_broker.protocol.histories import Kind


def _note(execution: Execution, kind: Kind, name: str, value: Any) -> None:
    execution.note(kind, name, journaled(f"{kind} {name}", value, here(2), execution.limits.stream_bytes))


def set(name: str, value: Any) -> None:  # wf.set reads as it is meant
    """An attribute of the run, to be seen and searched by. Raises `PayloadTooLarge`."""
    _note(running(f"wf.set({name!r})"), Kind.ATTRIBUTE, name, value)


class Stream:
    """What a run tells while it goes on, in the order of its history."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def write(self, value: Any) -> None:
        """Once, however often the body is replayed. Raises `PayloadTooLarge`."""
        _note(running(f"the stream {self.name}"), Kind.STREAM, self.name, value)


def stream(name: str) -> Stream:
    """A stream of the run."""
    return Stream(name)


class Tags:
    """Of the run: names with or without a value, to find it by."""

    def add(self, name: str, value: str = "") -> None:
        """Set it, also when it was set before."""
        _note(running("wf.tags"), Kind.TAG, name, value)

    def remove(self, name: str) -> None:
        """Take it away."""
        _note(running("wf.tags"), Kind.TAG, name, None)


tags = Tags()
