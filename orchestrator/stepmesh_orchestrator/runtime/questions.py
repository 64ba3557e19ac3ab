"""Histories that workers read page by page to answer questions, for as long as these are open.

Invariant: a page is what the history was when the question was put. Knows nothing of what is asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from stepmesh_broker.protocol.histories import Record, size_of
from stepmesh_broker.protocol.messages import Refused
from stepmesh_broker.protocol.queries import HistoryPage, ReadHistory


class Questions:
    """Of a partition."""

    def __init__(self) -> None:
        self._open: dict[str, Sequence[Record]] = {}

    @contextmanager
    def open(self, records: Sequence[Record]) -> Generator[str]:
        """The name under which they can be read meanwhile."""
        name = secrets.token_hex(8)
        self._open[name] = records
        try:
            yield name
        finally:
            del self._open[name]

    def page(self, wanted: ReadHistory, message_bytes: int) -> HistoryPage | Refused:
        """From a record on. `message_bytes`: what the broker carries; a page of more than one record has half of that at most."""
        records = self._open.get(wanted.question)
        if records is None or not 0 <= wanted.after <= len(records):
            return Refused("SM-1083", "the question that this history is for is over", "ask again")
        page_bytes = min(message_bytes, wanted.answer_bytes or message_bytes) // 2
        size, end = 0, wanted.after
        while end < len(records) and (end == wanted.after or size + size_of(records[end]) <= page_bytes):
            size += size_of(records[end])
            end += 1
        return HistoryPage([*records[wanted.after : end]], end < len(records))
