"""Dead letters that are sent again: records go to where they came from, as they were; once, however often it is tried."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import ONE_STEP, Lab, js, until, virtual
from tests.unit.orchestrator.runtime.test_event_topic import received
from tests.unit.orchestrator.runtime.test_intake import runs, topic

from stepmesh_broker.errors import BrokerUnavailable, StepmeshError
from stepmesh_broker.ports import Parked
from stepmesh_broker.protocol.dead_letters import MAX_SOURCE, ResendDeadLetter, Resent, Source, read_source
from stepmesh_broker.protocol.ids import Pool, Position
from stepmesh_broker.protocol.messages import Refused
from stepmesh_broker.protocol.records import AGAIN, PlainRecord, Topic
from stepmesh_orchestrator.core.flow.compile import compile_flow


async def resend(lab: Lab, letter: Parked | int) -> Any:
    position = letter if isinstance(letter, int) else letter.position
    return await lab.ask(ResendDeadLetter(Position(position)), Resent | Refused)  # type: ignore[arg-type]  # either answer


async def only_letter(lab: Lab) -> Parked:
    await until(lambda: bool(topic(lab).parked))
    (letter,) = await lab.client.parked()
    return letter


def too_early() -> bytes:
    """A submission of a flow that nobody stored yet."""
    compiled, _ = compile_flow(ONE_STEP)
    assert compiled is not None
    return js({"flowId": compiled.id, "input": [1]})


@virtual
async def test_a_submission_whose_flow_came_later_is_sent_again_and_starts_its_run() -> None:
    lab = await Lab(partitions=4).start()
    topic(lab).write(Topic.SUBMIT, too_early(), "order-1", {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"})
    letter = await only_letter(lab)
    assert letter.reason.startswith("SM-5004")
    await lab.flow(ONE_STEP)
    assert await resend(lab, letter) == Resent("submit")
    (run,) = await runs(lab)
    assert run.run_key == "order-1"
    assert not await lab.client.parked()
    (task,) = await lab.take()
    assert task.traceparent[3:35] == "1" * 32
    await lab.stop()


@pytest.mark.parametrize("key", ["", "order-1"])
def test_one_that_is_sent_twice_by_a_crash_in_between_starts_one_run(key: str) -> None:
    @virtual
    async def play() -> None:
        lab = await Lab(partitions=4).start()
        topic(lab).write(Topic.SUBMIT, too_early(), key)
        letter = await only_letter(lab)
        await lab.flow(ONE_STEP)
        for _ in range(2):  # it was written, and not dropped
            topic(lab).parked[letter.position] = letter
            assert await resend(lab, letter) == Resent("submit")
        assert len(await runs(lab)) == 1
        await lab.stop()

    play()


@virtual
async def test_an_event_without_an_id_is_the_same_one_when_it_is_sent_twice() -> None:
    lab = await Lab().start()
    record = topic(lab).write(Topic.EVENTS, js({"name": "paid", "key": "o1", "namespace": "acme", "data": 1}))
    letter = await only_letter(lab)
    assert letter.reason.startswith("SM-5008")
    topic(lab).parked.clear()
    value = letter._replace(data=js({"name": "paid", "key": "o1", "data": 1}))  # as if the tenant had been added
    for _ in range(2):
        topic(lab).parked[letter.position] = value
        assert await resend(lab, letter) == Resent("events")
    assert await received(lab) == [("paid", "o1", f"record/0/{record.position}/{record.time_ms}", b"1")]
    await lab.stop()


@virtual
async def test_one_that_still_starts_nothing_is_a_dead_letter_again_and_says_where_it_lay_first() -> None:
    lab = await Lab().start()
    record = topic(lab).write(Topic.SUBMIT, too_early())
    for _ in range(3):
        letter = await only_letter(lab)
        assert read_source(letter.source).origin == (0, record.position, record.time_ms)
        await resend(lab, letter)
        await until(lambda: not topic(lab).plain[Topic.SUBMIT]._entries)
    await lab.flow(ONE_STEP)
    await resend(lab, await only_letter(lab))
    assert len(await runs(lab)) == 1
    await lab.stop()


@virtual
async def test_what_the_topic_did_not_take_stays_a_dead_letter() -> None:
    lab = await Lab().start()
    topic(lab).write(Topic.SUBMIT, b"nonsense")
    letter = await only_letter(lab)
    broker = lab.node.ports.broker

    async def away(*_: Any) -> None:
        raise BrokerUnavailable("away")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(broker, "write", away)
        assert isinstance(await resend(lab, letter), Refused)
    assert await lab.client.parked() == [letter]
    await lab.stop()


@virtual
async def test_what_cannot_be_sent_again_is_refused_with_the_way_out() -> None:
    lab = await Lab().start()
    task = await lab.client.park(Pool("py"), b"task", "step 'a' of run 01900000-0000-7000-8000-000000000001: killed its worker")
    old = await lab.client.park(Pool("submit"), b"{}", "SM-3050 parked by a release that kept no more")
    cut = await lab.client.park(Pool("events"), b"{", "SM-5020", Source((0, 1, 2), 0, is_whole=False).encoded())
    refused = [await resend(lab, position) for position in (task, old, cut, cut + 1, 0)]
    assert [one.code for one in refused] == ["SM-5140", "SM-5141", "SM-5141", "SM-5024", "SM-5024"]
    assert "run 01900000-0000-7000-8000-000000000001" in refused[0].message
    assert "stepmesh retry RUN" in refused[0].hint
    assert "earlier release" in refused[1].message
    assert "too large" in refused[2].message
    assert len(await lab.client.parked()) == 3
    await lab.stop()


@virtual
async def test_a_record_that_nobody_could_decode_is_a_dead_letter_without_data_and_the_others_go_on() -> None:
    lab = await Lab().start()
    log = topic(lab).plain[Topic.SUBMIT]
    log.put(PlainRecord(0, 1_000, 0, b"", problem=StepmeshError("offset 7 to 9: the batch cannot be decoded", code="SM-5142")))
    log.write(js({"flow": ONE_STEP, "input": [1]}), b"", {}, 0)
    letter = await only_letter(lab)
    assert (letter.pool, letter.data) == ("submit", b"")
    assert letter.reason == "SM-5142 offset 7 to 9: the batch cannot be decoded (record 0@1000)"
    assert len(await runs(lab)) == 1
    assert (await resend(lab, letter)).code == "SM-5141"
    await lab.stop()


def test_a_source_has_what_its_record_had_as_far_as_it_fits() -> None:
    record = PlainRecord(3, 9, 77, b"value", b"key", {"a": b"\xff", AGAIN: b"1/2/3"})
    source = read_source(Source.of(record, 5).encoded())
    assert source.record(b"value") == PlainRecord(3, 0, 0, b"value", b"key", {"a": b"\xff", AGAIN: b"1/2/3"})
    assert not Source.of(record, 4).is_whole, "only the beginning of its value was kept"

    room = MAX_SOURCE - len(Source.of(record._replace(headers={"a": b"x" * 1_000}), 5).encoded()) + 1_000
    fits, over = (Source.of(record._replace(headers={"a": b"x" * size}), 5) for size in (room, room + 1))
    assert (len(fits.encoded()), fits.is_whole, over.is_whole) == (MAX_SOURCE, True, False)
    assert len(over.encoded()) < 100


@pytest.mark.parametrize("said", [b"", b"1/2", b"1/2/x", b"1/2/3/4", b"-1/2/3", b"1" * 11 + b"/2/3"])
def test_a_header_that_is_no_place_names_nothing(said: bytes) -> None:
    assert PlainRecord(4, 5, 6, b"", headers={AGAIN: said}).origin == (4, 5, 6)
