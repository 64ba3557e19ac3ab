"""Plain records become events: once each by their ids, to runs by key or by id; or dead letters; or they wait."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import Lab, js, until, virtual

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.protocol.codec import encode
from stepmesh_broker.protocol.dead_letters import MOST, SHOWN_BYTES, DeadLetters, ListDeadLetters
from stepmesh_broker.protocol.event_records import read_event
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, home_of
from stepmesh_broker.protocol.messages import Refused, SendEvent
from stepmesh_broker.protocol.records import PlainRecord, Topic
from stepmesh_orchestrator.core.addresses import Place
from stepmesh_orchestrator.core.events import EventReceived, decode_turn
from stepmesh_orchestrator.ports import JournalFull
from stepmesh_orchestrator.runtime import event_topic, intake
from stepmesh_orchestrator.runtime.owners import moving

PARTITIONS = 4


def wait(**input: Any) -> dict[str, Any]:
    step = {"id": "w", "component": "/builtin/wait_for_event", "input": {"name": "paid", **input}}
    return {"name": "wait", "steps": [step], "output": {"$step": "w"}}


def write(lab: Lab, value: Any, key: str = "", **headers: str) -> PlainRecord:
    """As another program's producer would."""
    text = value if isinstance(value, bytes) else js(value)
    return lab.bus.streams(lab.namespace).write(Topic.EVENTS, text, key, {name.replace("_", "-"): said for name, said in headers.items()})


def unread(lab: Lab) -> int:
    return len(lab.bus.streams(lab.namespace).plain[Topic.EVENTS]._entries)


async def received(lab: Lab) -> list[tuple[str, str, str, bytes]]:
    """Name, key, id and data of all events in the journals, by partition, once all records are dealt with."""
    await until(lambda: not unread(lab))
    found: list[tuple[str, str, str, bytes]] = []
    for partition in await lab.journal.partitions():
        async for frame in lab.journal.read(partition):
            kept = [one for one in decode_turn(frame.payload).events if isinstance(one, EventReceived)]
            found += [(one.name, one.key, one.id, one.payload) for one in kept]
    return found


@virtual
async def test_records_reach_runs_by_key_and_by_run_before_and_after_they_wait() -> None:
    lab = await Lab(partitions=PARTITIONS).start()
    write(lab, {"name": "paid", "key": "early", "data": 1})
    await until(lambda: not unread(lab))
    keyed = [await lab.submit(wait(key=key, since="1h")) for key in ("early", "late")]
    own = await lab.submit(wait())
    await asyncio.sleep(1)
    write(lab, {"specversion": "1.0", "type": "paid", "source": "shop", "id": "7", "subject": "late", "data": 2})
    write(lab, {"name": "paid", "run": own, "data": 3})
    assert [(await lab.result(run))["result"] for run in (*keyed, own)] == [1, 2, 3]
    await lab.stop()


@virtual
async def test_an_event_comes_once_by_its_id_however_often_it_is_written_or_read() -> None:
    lab = await Lab(partitions=PARTITIONS).start()
    for _ in range(3):
        write(lab, {"name": "paid", "key": "o1", "id": "e1", "data": 1})
    bare = write(lab, {"name": "paid", "key": "o1", "data": 2})
    await until(lambda: not unread(lab))
    log = lab.bus.streams(lab.namespace).plain[Topic.EVENTS]
    await lab.restart()
    log.put(bare)  # whose acknowledgement was lost
    write(lab, {"name": "paid", "key": "o1", "id": "e1", "data": "another"})
    found = await received(lab)
    assert [(id, data) for _, _, id, data in found] == [("e1", b"1"), (read_event(bare, lab.namespace).id, b"2")]
    await lab.stop()


@virtual
async def test_events_of_an_address_keep_the_order_of_their_records() -> None:
    lab = await Lab(partitions=PARTITIONS).start()
    for number in range(2 * intake.AT_ONCE):
        write(lab, {"name": "paid", "key": f"o{number % 5}", "data": number})
    found = await received(lab)
    assert len(found) == 2 * intake.AT_ONCE
    for key in range(5):
        data = [int(one[3]) for one in found if one[1] == f"o{key}"]
        assert data == sorted(data)
    await lab.stop()


@virtual
async def test_bad_records_are_dead_letters_with_the_reason_and_the_others_go_on() -> None:
    lab = await Lab(event_bytes=10, kept_event_bytes=1_000).start()
    bad: list[tuple[str, Any, dict[str, str]]] = [
        ("SM-5020", b"nonsense", {}),
        ("SM-5021", {"name": "paid"}, {"content_type": "text/plain"}),
        ("SM-5200", {"name": "a/b"}, {}),
        ("SM-5201", {"name": "paid", "data": "x" * 9}, {}),
        ("SM-5008", {"name": "paid", "namespace": "stranger"}, {}),
    ]
    for _, value, headers in bad:
        write(lab, value, **headers)
    write(lab, {"name": "paid", "data": "x" * 8, "id": "good"})
    assert [id for _, _, id, _ in await received(lab)] == ["good"]
    letters = await lab.client.parked()
    assert {(letter.pool, letter.reason[:7]) for letter in letters} == {("events", code) for code, _, _ in bad}
    assert {letter.data for letter in letters} == {value if isinstance(value, bytes) else js(value) for _, value, _ in bad}
    await lab.stop()


@virtual
async def test_what_finds_no_room_at_its_address_is_a_dead_letter() -> None:
    lab = await Lab(kept_event_bytes=600).start()
    for number in range(3):
        write(lab, {"name": "paid", "id": f"e{number}", "data": "x" * 100})
    assert [id for _, _, id, _ in await received(lab)] == ["e0", "e1"]
    (letter,) = await lab.client.parked()
    assert letter.reason.startswith("SM-5202")
    await lab.stop()


@virtual
async def test_a_record_above_the_limit_of_messages_is_a_dead_letter() -> None:
    lab = Lab()
    lab.bus.max_message_bytes = 4_000
    await lab.start()
    write(lab, {"name": "paid", "data": "x" * 5_000})
    write(lab, {"name": "paid", "data": "x" * 3_500, "id": "small"})
    assert [id for _, _, id, _ in await received(lab)] == ["small"]
    (letter,) = await lab.client.parked()
    assert letter.reason.startswith("SM-3002")
    await lab.stop()


@virtual
async def test_while_a_home_is_away_moves_or_has_no_space_records_wait() -> None:
    lab = await Lab(partitions=PARTITIONS).start()
    request, tries = lab.broker.request, 0
    full = JournalFull("no space")

    async def refusing(subject: Any, data: bytes, timeout_s: float) -> bytes:
        nonlocal tries
        if subject.endswith(".api"):
            return await request(subject, data, timeout_s)
        tries += 1
        if tries == 1:
            raise BrokerUnavailable("away")
        if tries == 2:
            return encode(moving(Partition(0)))
        if tries == 3:
            return encode(Refused(full.code, full.message))
        return await request(subject, data, timeout_s)

    lab.broker.request = refusing  # type: ignore[method-assign]
    write(lab, {"name": "paid", "key": "o1", "id": "e1"})
    assert [id for _, _, id, _ in await received(lab)] == ["e1"]
    assert tries == 4
    assert not await lab.client.parked()
    await lab.stop()


@virtual
async def test_a_record_that_shows_a_defect_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = await Lab().start()

    def failing(record: PlainRecord, own: Namespace) -> SendEvent:
        if record.key == b"bad":
            raise ZeroDivisionError
        return read_event(record, own)

    monkeypatch.setattr(event_topic, "read_event", failing)
    write(lab, {"name": "paid", "id": "lost"}, "bad")
    write(lab, {"name": "paid", "id": "e1"})
    assert [id for _, _, id, _ in await received(lab)] == ["e1"]
    (letter,) = await lab.client.parked()
    assert letter.reason.startswith("SM-5023")
    await lab.stop()


@virtual
async def test_tenants_of_the_deployment_have_addresses_of_their_own() -> None:
    lab = Lab()
    lab.settings = replace(lab.settings, tenants=("acme",))
    await lab.start()
    write(lab, {"name": "paid", "key": "o1", "namespace": "acme"})
    await until(lambda: not unread(lab))
    places = lab.node.partitions[home_of("paid", "o1", 1)].shard.session.state.addresses
    assert places.get(Place("acme", "paid", "o1")) is not None
    assert places.get(Place("default", "paid", "o1")) is None
    await lab.stop()


@virtual
async def test_as_many_dead_letters_as_may_be_asked_for_fit_a_message() -> None:
    lab = Lab()
    lab.bus.max_message_bytes = 1_000_000
    await lab.start()
    for number in range(MOST + 1):
        await lab.client.park(Pool("events"), b"x" * SHOWN_BYTES, f"SM-5020 {number} " + "y" * 500)
    few, all = [(await lab.ask(ListDeadLetters(limit), DeadLetters)).letters for limit in (100, MOST)]
    assert {len(one.data) for one in few} == {SHOWN_BYTES}
    assert len(all) == MOST
    assert {(one.size, len(one.data) > 1_000) for one in all} == {(SHOWN_BYTES, True)}
    await lab.stop()
