"""What a body asks for, compared with what its history says that it asked for, scope by scope.

Invariant: within a scope commands come in the order in which they were recorded; scopes do not see each other. It compares and remembers;
it must not know loops, futures or what a command is good for.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from itertools import islice

from stepmesh.durable import divergence
from stepmesh.durable.divergence import Divergence
from stepmesh_broker.protocol.histories import Issued


class Ledger:
    """`new`: commands that the history lacks, since `begin`. `last`: the command that was asked for last."""

    def __init__(self) -> None:
        self._recorded: defaultdict[str, deque[Issued]] = defaultdict(deque)  # by scope: in the history, not asked for yet
        self._unrecorded: defaultdict[str, deque[Issued]] = defaultdict(deque)  # by scope: asked for, not in the history yet
        self._issued: defaultdict[str, list[str]] = defaultdict(list)  # by scope: names
        self._by_id: dict[str, Issued] = {}
        self.new: list[Issued] = []
        self.last: Issued | None = None

    def begin(self) -> None:
        """Another turn."""
        self.new = []

    def recall(self, record: Issued) -> Divergence | None:
        """The history has this command. In a body that is alive it may be one that was asked for in an earlier turn."""
        scope = record.id.partition("/")[0]
        self._by_id[record.id] = record
        waiting = self._unrecorded[scope]
        if waiting:
            return divergence.compared(record, waiting.popleft(), (), self._issued[scope])
        self._recorded[scope].append(record)
        return None

    def ask(self, scope: str, command: Issued) -> Divergence | None:
        """The body asks for this."""
        recorded = self._recorded[scope]
        if recorded:
            found = divergence.compared(recorded[0], command, islice(recorded, 1, None), self._issued[scope])
            if found is not None:
                later = (one.name for one in islice(recorded, 1, 1 + divergence.AROUND))
                return found.between(self._issued[scope][-divergence.AROUND :], later)
            recorded.popleft()
        else:
            self._unrecorded[scope].append(command)
            self.new.append(command)
            self._by_id[command.id] = command
        self._issued[scope].append(command.name)
        self.last = command
        return None

    def next(self, scope: str) -> Issued | None:
        """What the history has next in this scope."""
        recorded = self._recorded[scope]
        return recorded[0] if recorded else None

    def find(self, id: str) -> Issued | None:
        """A command by its id."""
        return self._by_id.get(id)

    def remaining(self) -> list[Issued]:
        """What the history has and the body did not ask for."""
        return [command for waiting in self._recorded.values() for command in waiting]

    def counts(self) -> Counter[str]:
        """How many commands of each name there were."""
        return Counter(name for names in self._issued.values() for name in names)
