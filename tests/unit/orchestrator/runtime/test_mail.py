"""Letters between partitions: packed as far as a message may grow, published as the turn's other effects are, taken from the inbox."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.unit.orchestrator.runtime.lab import Lab, until, virtual

from stepmesh_broker.protocol.codec import decode_inbox
from stepmesh_broker.protocol.ids import Namespace, Partition, RunId, home_of
from stepmesh_broker.protocol.letters import Letter, Letters, Subscribe, Unsubscribe, Waiter
from stepmesh_broker.protocol.messages import EventKept, SendEvent
from stepmesh_orchestrator.core.addresses import Place
from stepmesh_orchestrator.core.effects import Send
from stepmesh_orchestrator.core.events import EventReceived, decode_turn
from stepmesh_orchestrator.runtime.mail import LETTERS, in_messages

P0, P1 = Partition(0), Partition(1)


def letter(number: int, key: str = "k") -> Unsubscribe:
    return Unsubscribe("paid", key, Waiter(RunId("r"), number, 0, 1))


def unpacked(sends: Sequence[Send], max_bytes: int = 1 << 20) -> list[tuple[Partition, list[Letter], int]]:
    found = []
    for partition, data in in_messages(P0, sends, max_bytes):
        message = decode_inbox(data)
        assert isinstance(message, Letters)
        assert message.sender == P0
        found.append((partition, message.letters, len(data)))
    return found


def test_letters_of_a_turn_for_one_partition_travel_together_and_in_order() -> None:
    sends = [Send(P1, letter(1)), Send(P0, letter(2)), Send(P1, Subscribe("paid", "k", letter(3).waiter, 7, [1, 2]))]
    (first, letters, _), (second, others, _) = unpacked(sends)
    assert (first, letters) == (P1, [letter(1), Subscribe("paid", "k", letter(3).waiter, 7, [1, 2])])
    assert (second, others) == (P0, [letter(2)])


@pytest.mark.parametrize(("count", "messages"), [(LETTERS, 1), (LETTERS + 1, 2)])
def test_a_message_holds_so_many_letters_at_most(count: int, messages: int) -> None:
    found = unpacked([Send(P1, letter(number)) for number in range(count)])
    assert len(found) == messages
    assert [one for _, letters, _ in found for one in letters] == [letter(number) for number in range(count)]


def test_no_message_is_larger_than_the_broker_takes() -> None:
    found = unpacked([Send(P1, letter(number, "k" * 300)) for number in range(100)], 4_000)
    assert sum(len(letters) for _, letters, _ in found) == 100
    assert len(found) < 15
    assert all(size <= 4_000 for _, _, size in found)


@virtual
async def test_a_letter_reaches_the_partition_that_it_is_for() -> None:
    """A waiter that is not there any more is told an event until it says so: home → its partition → home."""
    lab = await Lab(partitions=4).start()
    name, key = "paid", "order-7"
    home, place = home_of(name, key, 4), Place("default", name, key)
    waiter = Waiter(RunId("01900000-0000-7000-8000-00000000dead"), 0, 0, 1)
    home_shard = lab.node.partitions[home].shard
    (message,) = [data for _, data in in_messages(P0, [Send(home, Subscribe(name, key, waiter, 0, [], "default"))], 1 << 20)]
    await lab.client.post(home, message)
    await lab.client.post(home, message)
    await until(lambda: home_shard.session.state.addresses.get(place))
    answer = await lab.control(SendEvent(Namespace("default"), name, key, "e1", b'{"n": 1}'), home)
    assert answer == EventKept("e1", 1)
    address = home_shard.session.state.addresses.made(place)
    await until(lambda: not address.waiters)
    await until(lambda: home_shard.dispatcher.confirmed == home_shard.sequence)
    kinds = [type(event).__name__ async for frame in lab.journal.read(home) for event in decode_turn(frame.payload).events]
    assert kinds == ["WaiterPlaced", EventReceived.__name__, "WaiterPlaced", "WaiterLeft"]
    await lab.node.stop()
