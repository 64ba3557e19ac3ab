"""What a deployment's connections to its broker carry for the steps: task frames that leave, and result messages that come.

Invariant: what is counted goes through unchanged. It must not know what frames hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from stepmesh_broker.ports import Broker, Inbox, InboxEntry
from stepmesh_broker.protocol.ids import Partition, Pool, Position
from stepmesh_cli.deployment import Deployment, DeploymentSettings


@dataclass(slots=True)
class Traffic:
    """Messages and their bytes, in each direction."""

    frames: int = 0
    frame_bytes: int = 0
    results: int = 0
    result_bytes: int = 0

    def since(self, before: Traffic) -> Traffic:
        """What was carried after `before` was."""
        return Traffic(
            self.frames - before.frames, self.frame_bytes - before.frame_bytes,
            self.results - before.results, self.result_bytes - before.result_bytes,
        )  # fmt: skip


class CountedInbox:
    """An `Inbox` whose messages are counted."""

    def __init__(self, inbox: Inbox, traffic: Traffic) -> None:
        self._inbox = inbox
        self._traffic = traffic
        self.ack = inbox.ack
        self.close = inbox.close

    async def fetch(self, max_messages: int, timeout_s: float) -> Sequence[InboxEntry]:
        """As the inbox has it."""
        page = await self._inbox.fetch(max_messages, timeout_s)
        self._traffic.results += len(page)
        self._traffic.result_bytes += sum(len(entry.data) for entry in page)
        return page


class CountedBroker:
    """A `Broker` whose task frames and inbox messages are counted; all else is the broker's own."""

    def __init__(self, broker: Broker, traffic: Traffic) -> None:
        self._broker = broker
        self._traffic = traffic

    def __getattr__(self, name: str) -> Any:
        """Of the broker."""
        return getattr(self._broker, name)

    async def publish_tasks(self, pool: Pool, data: bytes, message_id: str) -> Position:
        """As the broker has it."""
        self._traffic.frames += 1
        self._traffic.frame_bytes += len(data)
        return await self._broker.publish_tasks(pool, data, message_id)

    async def inbox(self, partition: Partition, after: Position) -> CountedInbox:
        """As the broker has it."""
        return CountedInbox(await self._broker.inbox(partition, after), self._traffic)


class CountedDeployment(Deployment):
    """A deployment that counts what its own connections carry; its worker processes have others."""

    def __init__(self, settings: DeploymentSettings) -> None:
        super().__init__(settings)
        self.traffic = Traffic()

    async def __aenter__(self) -> CountedDeployment:
        """`start`."""
        await self.start()
        return self

    def _new_broker(self) -> Broker:
        return cast("Broker", CountedBroker(super()._new_broker(), self.traffic))
