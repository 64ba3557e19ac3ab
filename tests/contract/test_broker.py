"""The Broker port, sentence by sentence, on every backend."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import pytest
from tests.contract.conftest import ACK_WAIT_S, DEDUPE_WINDOW_S

from stepmesh_broker.errors import BrokerError, BrokerUnavailable, InboxTaken, MessageTooLarge
from stepmesh_broker.ports import Broker, PoolDepth, TopicReader
from stepmesh_broker.protocol.dead_letters import MAX_SOURCE
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position
from stepmesh_broker.protocol.records import AGAIN, PlainRecord, Topic
from stepmesh_broker.protocol.subjects import Subject

if TYPE_CHECKING:
    from tests.contract.conftest import World

POOL = Pool("cpu")
P = Partition(3)
START = Position(0)


# --- connections ---------------------------------------------------------------------------------------------


async def test_nothing_works_before_connect_or_after_close(world: World) -> None:
    early = world.unconnected()
    with pytest.raises(BrokerUnavailable):
        await early.publish_tasks(POOL, b"x", "1")
    with pytest.raises(BrokerUnavailable):
        await early.tasks(POOL)
    late = await world.connect()
    await late.close()
    for call in (
        late.publish_tasks(POOL, b"x", "1"),
        late.post(P, b"x"),
        late.send(Subject("a.b"), b"x"),
        late.request(Subject("a.b"), b"x", 9),
    ):
        with pytest.raises(BrokerUnavailable) as caught:
            await call
        assert caught.value.code == "SM-3001"


async def test_close_is_idempotent_and_flushes(world: World, broker: Broker) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    await broker.listen(Subject("news.a"), heard.put)
    other = await world.connect()
    for number in range(50):
        await other.send(Subject("news.a"), b"%d" % number)
    await other.close()
    await other.close()
    assert [await world.run(heard.get()) for _ in range(50)] == [b"%d" % number for number in range(50)]


async def test_incarnation_is_the_same_for_all_connections(world: World, broker: Broker) -> None:
    first = await broker.incarnation()
    await broker.publish_tasks(POOL, b"x", "1")
    other = await world.connect()
    assert first
    assert await other.incarnation() == first == await broker.incarnation()


# --- tasks ---------------------------------------------------------------------------------------------------


async def test_positions_of_tasks_grow(broker: Broker) -> None:
    positions = [await broker.publish_tasks(POOL, b"x", f"id-{number}") for number in range(5)]
    assert positions == sorted(set(positions))
    assert positions[0] >= 1


async def test_a_frame_arrives_as_it_was_published(world: World, broker: Broker) -> None:
    everything = bytes(range(256)) + b"\r\nPUB x 1\r\n"
    source = await broker.tasks(POOL)
    await broker.publish_tasks(POOL, everything, "1")
    await broker.publish_tasks(POOL, b"", "2")
    first = await world.run(source.fetch(1, 5))
    second = await world.run(source.fetch(1, 5))
    assert [(d.data, d.deliveries) for d in (*first, *second)] == [(everything, 1), (b"", 1)]


async def test_the_same_id_within_the_window_adds_nothing(world: World, broker: Broker) -> None:
    first = await broker.publish_tasks(POOL, b"once", "same")
    assert await broker.publish_tasks(POOL, b"again", "same") == first
    other = await world.connect()
    again = await other.publish_tasks(POOL, b"and again", "same")
    if broker.promises.ids_shared:
        assert again == first
    else:
        assert again > first
    assert (await broker.depth(POOL)).ready == (1 if broker.promises.ids_shared else 2)
    source = await broker.tasks(POOL)
    (delivery,) = await world.run(source.fetch(4, 5))
    assert delivery.data == b"once"
    await delivery.ack()
    assert list(await world.run(source.fetch(4, 0.05))) == []


async def test_the_same_id_after_the_window_is_a_new_frame(world: World, broker: Broker) -> None:
    first = await broker.publish_tasks(POOL, b"once", "same")
    await world.pass_time(DEDUPE_WINDOW_S * 1.5)
    assert await broker.publish_tasks(POOL, b"twice", "same") > first
    assert (await broker.depth(POOL)).ready == 2


async def test_fetch_returns_at_most_what_was_asked(world: World, broker: Broker) -> None:
    source = await broker.tasks(POOL)
    for number in range(5):
        await broker.publish_tasks(POOL, b"%d" % number, f"id-{number}")
    got: list[bytes] = []
    while len(got) < 5:
        page = await world.run(source.fetch(2, 5))
        assert 1 <= len(page) <= 2
        got += [delivery.data for delivery in page]
    assert sorted(got) == [b"0", b"1", b"2", b"3", b"4"]


async def test_fetch_is_empty_after_its_timeout(world: World, broker: Broker) -> None:
    source = await broker.tasks(POOL)
    assert list(await world.run(source.fetch(4, 0.05))) == []
    assert list(await world.run(source.fetch(4, 0.0))) == []


async def test_an_idle_consumer_gets_a_frame_when_it_comes(world: World, broker: Broker) -> None:
    source = await broker.tasks(POOL)
    for number in range(12):  # more than one standing request of 4 can carry
        waiting = asyncio.ensure_future(source.fetch(4, 60))
        await world.pass_time(0.005)
        await broker.publish_tasks(POOL, b"%d" % number, f"id-{number}")
        async with asyncio.timeout(10):
            (delivery,) = await waiting
        assert (delivery.data, delivery.deliveries) == (b"%d" % number, 1)
        await delivery.ack()


async def test_frames_wait_for_the_first_consumer(world: World, broker: Broker) -> None:
    await broker.publish_tasks(POOL, b"early", "1")
    source = await (await world.connect()).tasks(POOL)
    (delivery,) = await world.run(source.fetch(4, 5))
    assert delivery.data == b"early"


async def test_consumers_of_a_pool_share_its_frames(world: World, broker: Broker) -> None:
    sources = [await broker.tasks(POOL), await broker.tasks(POOL), await (await world.connect()).tasks(POOL)]
    for number in range(60):
        await broker.publish_tasks(POOL, b"%d" % number, f"id-{number}")
    got: list[bytes] = []
    shares = [0, 0, 0]
    while len(got) < 60:
        for index, source in enumerate(sources):
            page = await world.run(source.fetch(3, 0.05), 0.05)
            shares[index] += len(page)
            for delivery in page:
                got.append(delivery.data)
                await delivery.ack()
    assert sorted(got, key=int) == [b"%d" % number for number in range(60)]
    assert min(shares) > 0


async def test_pools_and_namespaces_are_apart(world: World, broker: Broker) -> None:
    elsewhere = await world.connect(Namespace(world.namespace + "x"))
    await broker.publish_tasks(Pool("gpu"), b"gpu", "1")
    await elsewhere.publish_tasks(POOL, b"other tenant", "1")
    source = await broker.tasks(POOL)
    assert list(await world.run(source.fetch(4, 0.05))) == []
    (delivery,) = await world.run((await broker.tasks(Pool("gpu"))).fetch(4, 5))
    assert delivery.data == b"gpu"


async def test_an_acknowledged_frame_never_comes_again(world: World, broker: Broker) -> None:
    source = await broker.tasks(POOL)
    await broker.publish_tasks(POOL, b"x", "1")
    (delivery,) = await world.run(source.fetch(4, 5))
    await delivery.ack()
    await delivery.ack()
    await world.pass_time(ACK_WAIT_S * 2)
    assert list(await world.run(source.fetch(4, 0.05))) == []
    depth = await broker.depth(POOL)
    assert (depth.ready, depth.in_flight) == (0, 0)


async def test_an_unacknowledged_frame_comes_again_and_is_counted(world: World, broker: Broker) -> None:
    source = await broker.tasks(POOL)
    await broker.publish_tasks(POOL, b"x", "1")
    (first,) = await world.run(source.fetch(4, 5))
    assert list(await world.run(source.fetch(4, ACK_WAIT_S / 4), ACK_WAIT_S / 4)) == []
    (second,) = await world.run(source.fetch(4, 5))
    (third,) = await world.run(source.fetch(4, 5))
    assert [d.deliveries for d in (first, second, third)] == [1, 2, 3]
    assert third.data == b"x"
    await third.ack()
    await world.pass_time(ACK_WAIT_S * 2)
    assert list(await world.run(source.fetch(4, 0.05))) == []


async def test_in_progress_restarts_the_ack_wait(world: World, broker: Broker) -> None:
    source = await broker.tasks(POOL)
    await broker.publish_tasks(POOL, b"x", "1")
    (delivery,) = await world.run(source.fetch(4, 5))
    for _ in range(6):
        await world.pass_time(ACK_WAIT_S / 2)
        await delivery.in_progress()
    assert list(await world.run(source.fetch(4, 0.01), 0.01)) == []
    (again,) = await world.run(source.fetch(4, 5))
    assert again.deliveries == 2


async def test_a_frame_handed_back_comes_again_at_once(world: World, broker: Broker) -> None:
    source, other = await broker.tasks(POOL), await (await world.connect()).tasks(POOL)
    await broker.publish_tasks(POOL, b"x", "1")
    (delivery,) = await world.run(source.fetch(1, 5))
    await delivery.nak()
    (again,) = await world.run(other.fetch(1, 5), 0.01)
    assert (again.data, again.deliveries) == (b"x", 2)


async def test_a_frame_handed_back_with_a_delay_comes_after_it(world: World, broker: Broker) -> None:
    source = await broker.tasks(POOL)
    await broker.publish_tasks(POOL, b"x", "1")
    (delivery,) = await world.run(source.fetch(1, 5))
    await delivery.nak(ACK_WAIT_S * 3)
    await world.pass_time(ACK_WAIT_S * 2)
    assert list(await world.run(source.fetch(1, 0.01), 0.01)) == []
    (again,) = await world.run(source.fetch(1, 5))
    assert again.deliveries == 2


async def test_what_a_closed_source_held_goes_to_the_others(world: World, broker: Broker) -> None:
    source, other = await broker.tasks(POOL), await broker.tasks(POOL)
    await broker.publish_tasks(POOL, b"x", "1")
    (delivery,) = await world.run(source.fetch(1, 5))
    await source.close()
    await source.close()
    (again,) = await world.run(other.fetch(1, 5))
    assert (again.data, again.deliveries, delivery.deliveries) == (b"x", 2, 1)
    with pytest.raises(BrokerUnavailable):
        await source.fetch(1, 1)


async def test_what_a_closed_connection_held_comes_again(world: World, broker: Broker) -> None:
    gone = await world.connect()
    await broker.publish_tasks(POOL, b"x", "1")
    (delivery,) = await world.run((await gone.tasks(POOL)).fetch(1, 5))
    await gone.close()
    await delivery.ack()  # too late, and harmless or not: the frame is delivered again or done
    source = await broker.tasks(POOL)
    page = await world.run(source.fetch(1, ACK_WAIT_S * 3), ACK_WAIT_S * 3)
    assert [(d.data, d.deliveries) for d in page] in ([], [(b"x", 2)])


async def test_closing_ends_a_waiting_fetch(world: World, broker: Broker) -> None:
    source = await broker.tasks(POOL)
    waiting = asyncio.ensure_future(source.fetch(1, 60))
    await world.pass_time(0.01)
    await source.close()
    async with asyncio.timeout(10):
        assert list(await waiting) == []


# --- depth ---------------------------------------------------------------------------------------------------


async def test_depth_of_an_unused_pool_is_zero(broker: Broker) -> None:
    assert await broker.depth(POOL) == PoolDepth(0, 0, Position(0))
    await broker.tasks(POOL)
    assert (await broker.depth(POOL))[:2] == (0, 0)


async def test_depth_counts_frames_before_anyone_joined(broker: Broker) -> None:
    for number in range(3):
        await broker.publish_tasks(POOL, b"x", f"id-{number}")
    assert await broker.depth(POOL) == PoolDepth(3, 0, Position(0))


async def test_the_floor_is_below_every_unacknowledged_frame(world: World, broker: Broker) -> None:
    source = await broker.tasks(POOL)
    positions = [await broker.publish_tasks(POOL, b"%d" % number, f"id-{number}") for number in range(4)]
    held = {d.data: d for _ in range(3) for d in await world.run(source.fetch(1, 5))}

    waits = next(number for number in range(4) if b"%d" % number not in held)

    async def is_depth(ready: int, in_flight: int) -> bool:
        for delivery in held.values():
            await delivery.in_progress()
        depth = await broker.depth(POOL)
        undone = [position for number, position in enumerate(positions) if b"%d" % number in held or number == waits]
        floor = min(undone, default=positions[3] + 1) - 1
        assert depth.floor <= floor
        lowest = max((position for position in (0, *positions) if position <= floor), default=0)
        return depth[:2] == (ready, in_flight) and (depth.floor == lowest or not broker.promises.floor_exact)

    await world.until(lambda: is_depth(1, 3))
    for left, number in enumerate(sorted(held, key=lambda data: data != b"1"), start=-2):
        await held.pop(number).ack()
        await world.until(lambda left=left: is_depth(1, -left))  # type: ignore[misc]
    (last,) = await world.run(source.fetch(1, 5))
    waits = -1
    await last.ack()
    await world.until(lambda: is_depth(0, 0))


# --- inbox ---------------------------------------------------------------------------------------------------


async def test_an_inbox_is_read_in_order_with_the_positions_of_post(world: World, broker: Broker) -> None:
    other = await world.connect()
    posted = [(await (broker, other)[n % 2].post(P, b"%d" % n), b"%d" % n) for n in range(600)]
    inbox = await broker.inbox(P, START)
    read: list[tuple[Position, bytes]] = []
    while len(read) < 600:
        page = await world.run(inbox.fetch(100, 5))
        assert 1 <= len(page) <= 100
        read += [(entry.position, entry.data) for entry in page]
    assert read == posted
    assert [position for position, _ in read] == sorted({position for position, _ in read})


async def test_an_idle_reader_gets_a_message_when_it_comes(world: World, broker: Broker) -> None:
    inbox = await broker.inbox(P, START)
    for number in range(3):
        waiting = asyncio.ensure_future(inbox.fetch(10, 60))
        await world.pass_time(0.005)
        await broker.post(P, b"%d" % number)
        async with asyncio.timeout(10):
            assert [entry.data for entry in await waiting] == [b"%d" % number]
    assert list(await world.run(inbox.fetch(10, 0.05))) == []


async def test_unacknowledged_messages_come_again_to_a_new_reader(world: World, broker: Broker) -> None:
    inbox = await broker.inbox(P, START)
    for number in range(4):
        await broker.post(P, b"%d" % number)
    first = [entry for _ in range(4) for entry in await world.run(inbox.fetch(1, 5))]
    await inbox.ack(first[1].position)
    await inbox.close()
    again = await (await world.connect()).inbox(P, START)
    rest = [entry for _ in range(2) for entry in await world.run(again.fetch(1, 5))]
    assert rest == first[2:]
    assert list(await world.run(again.fetch(1, 0.05))) == []


async def test_one_reader_sees_a_message_once_however_long_it_takes(world: World, broker: Broker) -> None:
    inbox = await broker.inbox(P, START)
    await broker.post(P, b"x")
    assert len(await world.run(inbox.fetch(10, 5))) == 1
    await world.pass_time(ACK_WAIT_S * 3)
    assert list(await world.run(inbox.fetch(10, 0.05))) == []


async def test_messages_at_or_below_after_are_dropped(world: World, broker: Broker) -> None:
    positions = [await broker.post(P, b"%d" % number) for number in range(5)]
    inbox = await broker.inbox(P, positions[2])
    page = [entry for _ in range(2) for entry in await world.run(inbox.fetch(1, 5))]
    assert [entry.position for entry in page] == positions[3:]
    await inbox.close()

    async def only_the_rest_is_there() -> bool:
        everything = await broker.inbox(P, START)
        first = (await world.run(everything.fetch(1, 5)))[0]
        await everything.close()
        return first.position == positions[3]

    await world.until(only_the_rest_is_there)


async def test_acknowledged_messages_are_gone_for_good(world: World, broker: Broker) -> None:
    inbox = await broker.inbox(P, START)
    position = await broker.post(P, b"x")
    await world.run(inbox.fetch(1, 5))
    await inbox.ack(position)
    await inbox.ack(position)
    await inbox.close()
    again = await broker.inbox(P, START)
    assert list(await world.run(again.fetch(1, 0.05))) == []
    assert await broker.post(P, b"y") > position


async def test_a_new_reader_takes_over(world: World, broker: Broker) -> None:
    old = await broker.inbox(P, START)
    await broker.post(P, b"x")
    assert len(await world.run(old.fetch(1, 5))) == 1
    waiting = asyncio.ensure_future(old.fetch(1, 60))
    await world.pass_time(0.01)
    new = await (await world.connect()).inbox(P, START)
    with pytest.raises(InboxTaken) as caught:
        await world.run(waiting)
    assert caught.value.code == "SM-3005"
    assert [entry.data for entry in await world.run(new.fetch(1, 5))] == [b"x"]


async def test_a_reader_that_lost_its_partition_cannot_acknowledge(world: World, broker: Broker) -> None:
    old = await broker.inbox(P, START)
    position = await broker.post(P, b"x")
    await world.run(old.fetch(1, 5))
    await broker.inbox(P, START)
    await old.ack(position)
    newest = await broker.inbox(P, START)
    assert [entry.position for entry in await world.run(newest.fetch(1, 5))] == [position]


async def test_partitions_are_apart(world: World, broker: Broker) -> None:
    await broker.post(Partition(1), b"one")
    await broker.post(Partition(11), b"eleven")
    one, eleven = await broker.inbox(Partition(1), START), await broker.inbox(Partition(11), START)
    assert [entry.data for entry in await world.run(one.fetch(5, 5))] == [b"one"]
    assert [entry.data for entry in await world.run(eleven.fetch(5, 5))] == [b"eleven"]


async def test_posts_are_deduplicated_by_a_non_empty_id(world: World, broker: Broker) -> None:
    first = await broker.post(P, b"once", "same")
    assert await broker.post(P, b"again", "same") == first
    plain = [await broker.post(P, b"plain"), await broker.post(P, b"plain")]
    assert len({first, *plain}) == 3
    inbox = await broker.inbox(P, START)
    got = [entry.data for _ in range(3) for entry in await world.run(inbox.fetch(1, 5))]
    assert got == [b"once", b"plain", b"plain"]


async def test_a_closed_inbox_is_closed(world: World, broker: Broker) -> None:
    inbox = await broker.inbox(P, START)
    waiting = asyncio.ensure_future(inbox.fetch(1, 60))
    await world.pass_time(0.01)
    await inbox.close()
    await inbox.close()
    async with asyncio.timeout(10):
        assert list(await waiting) == []
    with pytest.raises(BrokerUnavailable):
        await inbox.fetch(1, 1)


# --- dead letters --------------------------------------------------------------------------------------------


async def test_dead_letters_are_listed_oldest_first_and_dropped_one_by_one(broker: Broker) -> None:
    assert list(await broker.parked()) == []
    assert await broker.drop_parked(Position(1)) is False
    reason = "killed its worker 3 times\r\nlast: SIGSEGV – ü"
    first = await broker.park(POOL, b"\x00\xff", reason, bytes(range(256)) * 11)
    second = await broker.park(Pool("gpu"), b"", "")
    third = await broker.park(POOL, b"3", "r")
    letters = await broker.parked()
    assert [tuple(letter) for letter in letters] == [
        (first, POOL, b"\x00\xff", reason, bytes(range(256)) * 11),
        (second, "gpu", b"", "", b""),
        (third, POOL, b"3", "r", b""),
    ]
    assert [letter.position for letter in await broker.parked(limit=2)] == [first, second]
    assert [letter.position for letter in await broker.parked(after=first)] == [second, third]
    assert [letter.position for letter in await broker.parked(1, Position(second - 1))] == [second]
    assert list(await broker.parked(after=third)) == []
    assert await broker.drop_parked(second) is True
    assert await broker.drop_parked(second) is False
    assert [letter.position for letter in await broker.parked()] == [first, third]


# --- talk ----------------------------------------------------------------------------------------------------


async def test_every_listener_hears_in_order(world: World, broker: Broker) -> None:
    heard: list[asyncio.Queue[bytes]] = [asyncio.Queue(), asyncio.Queue()]
    other = await world.connect()
    await broker.listen(Subject("feed.run1"), heard[0].put)
    await other.listen(Subject("feed.run1"), heard[1].put)

    async def greeted() -> bool:
        await broker.send(Subject("feed.run1"), b"hello")
        return not heard[1].empty()

    await world.until(greeted)
    for number in range(200):
        await broker.send(Subject("feed.run1"), b"%d" % number)
    for queue in heard:
        while (first := await world.run(queue.get())) == b"hello":
            pass
        assert [first, *[await world.run(queue.get()) for _ in range(199)]] == [b"%d" % number for number in range(200)]


async def test_nothing_is_kept_for_later_listeners(world: World, broker: Broker) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    await broker.send(Subject("feed.run1"), b"early")
    await broker.listen(Subject("feed.run1"), heard.put)
    await broker.send(Subject("feed.run1"), b"late")
    assert await world.run(heard.get()) == b"late"


async def test_an_ending_wildcard_matches_any_rest(world: World, broker: Broker) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    await broker.listen(Subject("ns1.feed.>"), heard.put)
    for subject in ("ns1.feed", "ns1.feeds.a", "ns2.feed.a", "ns1.feed.a", "ns1.feed.a.b"):
        await broker.send(Subject(subject), subject.encode())
    await broker.send(Subject("ns1.feed.a"), b"again")
    await broker.send(Subject("ns1.feed.end"), b"end")
    got = [await world.run(heard.get()) for _ in range(4)]
    in_order = [b"ns1.feed.a", b"ns1.feed.a.b", b"again", b"end"]
    if broker.promises.order_across_subjects:
        assert got == in_order
    else:
        assert sorted(got) == sorted(in_order)
        assert got.index(b"ns1.feed.a") < got.index(b"again")


async def test_a_closed_listener_hears_no_more(world: World, broker: Broker) -> None:
    heard: list[bytes] = []
    done: asyncio.Queue[bytes] = asyncio.Queue()

    async def once(data: bytes) -> None:
        heard.append(data)
        await subscription.close()

    subscription = await broker.listen(Subject("feed.a"), once)
    await broker.listen(Subject("feed.a"), done.put)
    await broker.send(Subject("feed.a"), b"1")
    assert await world.run(done.get()) == b"1"
    await world.until(lambda: _is(bool(heard)))
    await broker.send(Subject("feed.a"), b"2")
    assert await world.run(done.get()) == b"2"
    await subscription.close()
    assert heard == [b"1"]


async def test_a_failing_handler_hears_the_next_message(world: World, broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def picky(data: bytes) -> None:
        if data == b"bad":
            raise ValueError(data)
        await heard.put(data)

    await broker.listen(Subject("feed.a"), picky)
    with caplog.at_level(logging.ERROR):
        await broker.send(Subject("feed.a"), b"bad")
        await broker.send(Subject("feed.a"), b"good")
        assert await world.run(heard.get()) == b"good"
    assert "feed.a" in caplog.text


async def test_a_request_is_answered(world: World, broker: Broker) -> None:
    async def shout(data: bytes) -> bytes:
        return data.upper()

    await (await world.connect()).serve(Subject("api.a"), shout)
    assert await world.run(broker.request(Subject("api.a"), b"hello", 5)) == b"HELLO"
    assert await world.run(broker.request(Subject("api.a"), b"", 5)) == b""


async def test_requests_are_handled_concurrently(world: World, broker: Broker) -> None:
    both = asyncio.Barrier(2)

    async def meet(data: bytes) -> bytes:
        await both.wait()
        return data

    await broker.serve(Subject("api.a"), meet)
    other = await world.connect()
    answers = asyncio.gather(broker.request(Subject("api.a"), b"1", 5), other.request(Subject("api.a"), b"2", 5))
    assert await world.run(answers) == [b"1", b"2"]


async def test_servers_of_one_group_share_requests(world: World, broker: Broker) -> None:
    served: list[bytes] = []

    async def serve(data: bytes) -> bytes:
        served.append(data)
        return data

    for _ in range(3):
        await (await world.connect()).serve(Subject("api.a"), serve, "orchestrators")
    for number in range(20):
        await world.run(broker.request(Subject("api.a"), b"%d" % number, 5))
    assert served == [b"%d" % number for number in range(20)]


async def test_a_request_to_nobody_fails_at_once(world: World, broker: Broker) -> None:
    async def echo(data: bytes) -> bytes:
        return data

    async with asyncio.timeout(10):
        with pytest.raises(BrokerUnavailable, match="nobody"):
            await broker.request(Subject("api.a"), b"x", 3600)
    server = await broker.serve(Subject("api.a"), echo)
    await world.run(broker.request(Subject("api.a"), b"x", 5))
    await server.close()
    await server.close()
    async with asyncio.timeout(10):
        with pytest.raises(BrokerUnavailable, match="nobody"):
            await broker.request(Subject("api.a"), b"x", 3600)


@pytest.mark.parametrize("group", ["", "orchestrators"])
async def test_a_server_whose_begin_was_cut_short_answers_nobody(world: World, broker: Broker, group: str) -> None:
    """Nobody has it, so nobody could close it."""

    async def echo(data: bytes) -> bytes:
        return data

    begun = 0
    for turns in range(4):
        serving = asyncio.create_task(broker.serve(Subject("api.a"), echo, group))
        for _ in range(turns):
            await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait([serving])
        begun += not serving.cancelled()
        if not serving.cancelled():
            await serving.result().close()
    assert begun < 4
    async with asyncio.timeout(10):
        with pytest.raises(BrokerUnavailable, match="nobody"):
            await broker.request(Subject("api.a"), b"x", 3600)


async def test_a_request_ends_after_its_timeout(world: World, broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    limit = broker.max_message_bytes

    async def bad(data: bytes) -> bytes:
        if data == b"fail":
            raise ValueError("no")
        return b"x" * (limit + 1)

    await broker.serve(Subject("api.a"), bad)
    for data in (b"fail", b"too large"):
        with pytest.raises(BrokerUnavailable, match=r"api\.a"):
            await world.run(broker.request(Subject("api.a"), data, 0.1))
    assert "MessageTooLarge" in caplog.text


# --- limits --------------------------------------------------------------------------------------------------


async def test_a_message_at_the_limit_passes_everywhere(world: World, broker: Broker) -> None:
    full = b"x" * broker.max_message_bytes

    async def echo(data: bytes) -> bytes:
        return data

    heard: asyncio.Queue[bytes] = asyncio.Queue()
    await broker.serve(Subject("api.a"), echo)
    await broker.listen(Subject("feed.a"), heard.put)
    await broker.publish_tasks(POOL, full, "1")
    await broker.post(P, full, "1")
    await broker.park(POOL, full, "😀" * 5000, b"s" * MAX_SOURCE)
    await broker.send(Subject("feed.a"), full)
    (delivery,) = await world.run((await broker.tasks(POOL)).fetch(1, 5))
    (entry,) = await world.run((await broker.inbox(P, START)).fetch(1, 5))
    (letter,) = await broker.parked()
    answer = await world.run(broker.request(Subject("api.a"), full, 5))
    assert delivery.data == entry.data == letter.data == answer == await world.run(heard.get()) == full


async def test_a_message_above_the_limit_is_refused_before_it_is_sent(broker: Broker) -> None:
    limit = broker.max_message_bytes
    over = b"x" * (limit + 1)
    for call in (
        broker.publish_tasks(POOL, over, "1"),
        broker.post(P, over),
        broker.park(POOL, over, "r"),
        broker.write(Topic.SUBMIT, PlainRecord(0, 0, 0, over)),
        broker.send(Subject("feed.a"), over),
        broker.request(Subject("api.a"), over, 5),
    ):
        with pytest.raises(MessageTooLarge) as caught:
            await call
        assert caught.value.code == "SM-3002"
        assert str(limit) in str(caught.value)
        assert str(limit + 1) in str(caught.value)
    assert (await broker.depth(POOL)).ready == 0


async def test_names_that_no_subject_may_hold_are_refused(broker: Broker) -> None:
    for pool in ("", "a.b", "a b", "a\r\nPUB x 0", ">", "*", "x" * 65):
        for call in (
            broker.publish_tasks(Pool(pool), b"x", "1"),
            broker.tasks(Pool(pool)),
            broker.depth(Pool(pool)),
            broker.park(Pool(pool), b"x", "r"),
        ):
            with pytest.raises(BrokerError) as caught:
                await call
            assert caught.value.code == "SM-3004"


async def _is(value: bool) -> bool:
    return value


# --- topics of plain records ----------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", Topic)
async def test_plain_records_arrive_with_key_headers_and_time(world: World, broker: Broker, topic: Topic) -> None:
    reader = await opened(broker, topic)
    await world.write(topic, b'{"a": 1}', "order-1", {"traceparent": "00-x", "Content-Type": "application/json"})
    (record,) = await world.run(reader.fetch(10, 10))
    assert (record.value, record.key) == (b'{"a": 1}', b"order-1")
    assert (record.headers["traceparent"], record.headers["content-type"]) == (b"00-x", b"application/json")
    assert abs(record.time_ms - time.time_ns() // 1_000_000) < 60_000
    await world.write(topic, b"bare")
    (bare,) = await world.run(reader.fetch(10, 10))
    assert (bare.value, bare.key) == (b"bare", b"")
    assert (bare.lane, bare.position) != (record.lane, record.position)


@pytest.mark.parametrize("topic", Topic)
async def test_a_record_is_written_as_it_was_read(world: World, broker: Broker, topic: Topic) -> None:
    reader = await opened(broker, topic)
    await world.write(topic, b'{"a": 1}', "order-1", {"traceparent": "00-x", "Content-Type": "application/json"})
    (record,) = await world.run(reader.fetch(10, 10))
    await reader.ack([record])
    await (await world.connect()).write(topic, record._replace(headers={**record.headers, AGAIN: b"7/8/9"}))
    (again,) = await world.run(reader.fetch(10, 10))
    assert (again.value, again.key, again.lane) == (record.value, record.key, record.lane)
    assert again.headers == {**record.headers, AGAIN: b"7/8/9"}
    assert again.position > record.position
    assert again.time_ms >= record.time_ms
    assert again.origin == (7, 8, 9)
    assert record.origin == (record.lane, record.position, record.time_ms)
    await reader.ack([again])
    await broker.write(topic, PlainRecord(99, 5, 5, b"bare"))
    (bare,) = await world.run(reader.fetch(10, 10))
    assert (bare.value, bare.key, bare.lane) == (b"bare", b"", 0)


@pytest.mark.parametrize("topic", Topic)
async def test_records_of_one_key_come_in_order_and_every_record_to_one_share(world: World, broker: Broker, topic: Topic) -> None:
    readers = [reader for share in range(3) if (reader := await broker.records(topic, Partition(share), 3)) is not None]
    for number in range(60):
        await world.write(topic, b"%d" % number, f"key-{number % 6}")
    found: list[tuple[bytes, bytes]] = []
    while len(found) < 60:
        for reader in readers:
            found += [(record.key, record.value) for record in await world.run(reader.fetch(7, 0.3))]
    assert len(set(found)) == len(found) == 60
    for key in range(6):
        values = [int(value) for name, value in found if name == b"key-%d" % key]
        assert values == sorted(values)


@pytest.mark.parametrize("topic", Topic)
async def test_records_that_are_not_acknowledged_come_again_to_the_next_reader(world: World, broker: Broker, topic: Topic) -> None:
    reader = await opened(broker, topic)
    for number in range(6):
        await world.write(topic, b"%d" % number, "k")
    first: list[PlainRecord] = []
    while len(first) < 3:
        first += await world.run(reader.fetch(3 - len(first), 10))
    assert [record.value for record in first] == [b"0", b"1", b"2"]
    await reader.ack(first[:2])
    await reader.close()
    with pytest.raises(BrokerUnavailable):
        await reader.fetch(1, 1)
    other = await opened(await world.connect(), topic)
    again: list[PlainRecord] = []
    while len(again) < 4:
        again += await world.run(other.fetch(10, 10))
    assert [record.value for record in again] == [b"2", b"3", b"4", b"5"]
    assert again[0] == first[2], "the same record, whoever reads it"
    await other.ack(again)
    assert list(await world.run(other.fetch(10, 0.3))) == []


@pytest.mark.parametrize("topic", Topic)
async def test_a_reader_of_records_waits_as_long_as_it_was_told(world: World, broker: Broker, topic: Topic) -> None:
    reader = await opened(broker, topic)
    assert list(await world.run(reader.fetch(4, 0.05))) == []
    assert list(await world.run(reader.fetch(4, 0.0))) == []
    waiting = asyncio.ensure_future(reader.fetch(4, 10))
    await asyncio.sleep(0)
    await reader.close()
    assert list(await world.run(waiting)) == []
    await reader.close()


async def test_topics_are_apart(world: World, broker: Broker) -> None:
    readers = {topic: await opened(broker, topic) for topic in Topic}
    for topic in Topic:
        await world.write(topic, topic.encode())
    for topic, reader in readers.items():
        (record,) = await world.run(reader.fetch(10, 10))
        assert record.value == topic.encode()


async def opened(broker: Broker, topic: Topic) -> TopicReader:
    """The one reader of everything."""
    reader = await broker.records(topic, Partition(0), 1)
    assert reader is not None
    return reader
