"""Events of a run over HTTP: their form, their order, and that a reader can go on where it left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from tests.unit.gateway.door import Door, one_step, opened, until
from tests.unit.gateway.web import RUN, Web, connected, error, web

from stepmesh_gateway.http import events
from stepmesh_gateway.settings import Limits

GATE = one_step("/py/gate")
INNER = {"steps": [{"id": "x", "component": "/py/echo", "input": {"$input": "$"}}], "output": {"$step": "x"}}
MAP = {
    "name": "map", "steps": [{"id": "m", "component": "/builtin/map", "input": {"items": [1, 2], "workflow": {"$literal": INNER}}}],
    "output": {"$step": "m"},
}  # fmt: skip


@pytest.fixture
async def api(door: Door) -> AsyncIterator[Web]:
    async with web(door) as one:
        yield one


class Frames:
    """What comes through an event stream, frame by frame."""

    def __init__(self, answer: httpx.Response) -> None:
        self.headers = answer.headers
        self._lines = answer.aiter_lines()

    async def next(self) -> dict[str, str]:
        """Fields of the next frame, comments under ":"; empty at the end of the stream."""
        found: dict[str, str] = {}
        async with asyncio.timeout(20):
            async for line in self._lines:
                if not line:
                    return found
                name, _, value = line.partition(": ") if not line.startswith(":") else (":", "", line[2:])
                assert name not in found
                found[name] = value
        return found

    async def rest(self) -> list[dict[str, str]]:
        """All frames up to the end."""
        frames: list[dict[str, str]] = []
        while frame := await self.next():
            frames.append(frame)
        return frames


@asynccontextmanager
async def followed(api: Web, run: str, last: str | None = None, **query: Any) -> AsyncIterator[Frames]:
    headers = {} if last is None else {"Last-Event-ID": last}
    async with api.http.stream("GET", f"/api/v1/runs/{run}/events", params=query, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        frames = Frames(answer)
        assert await frames.next() == {"retry": "2000", ":": "hi"}
        yield frames


async def all_of(api: Web, run: str, last: str | None = None, **query: Any) -> list[dict[str, str]]:
    async with followed(api, run, last, **query) as frames:
        return await frames.rest()


def told(frame: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Kind and fields of an event; name, id and sequence number are checked. Of several events with one number only the last has an id."""
    data = msgspec.json.decode(frame["data"])
    assert set(data) == {"sequenceNumber", "timestamp", "event"}
    assert frame.get("id", str(data["sequenceNumber"])) == str(data["sequenceNumber"])
    ((kind, fields),) = data["event"].items()
    assert "".join(part.title() for part in frame["event"].split("_")) == kind
    return kind, fields


async def test_the_whole_life_of_a_run(api: Web) -> None:
    created = await api.run(one_step("/py/double"), 2**60, 1)
    run, flow = created["summary"]["runId"], created["summary"]["flowId"]
    frames = await all_of(api, run, includeResults="true")
    last = frames.pop()
    assert (last["event"], last["data"]) == ("end", "{}")
    heard = [told(frame) for frame in frames]
    assert heard[0] == ("RunCreated", {"runId": run, "flowId": flow, "itemCount": 2})
    assert heard[-1] == ("RunCompleted", {"runId": run, "status": 2})
    for item, output in ((0, 2**61), (1, 2)):
        mine = [(kind, fields) for kind, fields in heard if fields.get("itemIndex") == item]
        place = {"runId": run, "itemIndex": item, "stepIndex": 0, "stepId": "a"}
        assert ("StepsNeeded", {"runId": run, "itemIndex": item, "stepIds": ["a"]}) in mine
        assert ("StepStarted", {**place, "attempt": 1}) in mine
        assert ("StepCompleted", {**place, "status": 2, "result": output}) in mine
        assert mine[-1] == ("ItemCompleted", {"runId": run, "itemIndex": item, "result": output})
    ids = [int(frame["id"]) for frame in frames if "id" in frame]
    numbers = [msgspec.json.decode(frame["data"])["sequenceNumber"] for frame in frames]
    assert numbers == sorted(numbers)
    assert ids == sorted(set(numbers)), "each number is the id of its last event, so that nobody goes on in the middle"
    assert last["id"] == frames[-1]["id"]
    assert [created["summary"][name] for name in ("createdAtSeqno", "finishedAtSeqno")] == [ids[0], ids[-1]]


async def test_headers_for_proxies_and_browsers(api: Web) -> None:
    run = (await api.run(one_step("/py/double"), 1))["summary"]["runId"]
    async with followed(api, run) as frames:
        assert frames.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert frames.headers["cache-control"] == "no-cache, no-transform"
        assert frames.headers["x-accel-buffering"] == "no"
        assert "content-length" not in frames.headers


async def test_failures_are_told_with_their_error(api: Web) -> None:
    run = (await api.run(one_step("/py/boom", steps=[{"id": "a", "component": "/py/boom", "input": {}}]), 1))["summary"]["runId"]
    heard = [told(frame) for frame in (await all_of(api, run))[:-1]]
    step = next(fields for kind, fields in heard if kind == "StepCompleted")
    item = next(fields for kind, fields in heard if kind == "ItemCompleted")
    for fields in (step, item):
        assert (fields["errorCode"], "the boiler is cold" in fields["errorMessage"]) == (3, True)
        assert "result" not in fields
    assert (step["status"], heard[-1][1]["status"]) == (3, 3)


async def test_results_come_only_if_they_are_asked_for(api: Web) -> None:
    run = (await api.run(one_step("/py/double"), 1))["summary"]["runId"]
    assert not any("result" in told(frame)[1] for frame in (await all_of(api, run))[:-1])


async def test_filters(api: Web) -> None:
    run = (await api.run(MAP, None))["summary"]["runId"]
    own = [told(frame) for frame in (await all_of(api, run))[:-1]]
    assert {fields["runId"] for _, fields in own} == {run}
    family = [told(frame) for frame in (await all_of(api, run, includeSubRuns="true"))[:-1]]
    (child,) = [fields for kind, fields in family if kind == "SubRunCreated"]
    assert (child["parentRunId"], child["itemCount"]) == (run, 2)
    assert len(family) > len(own)
    for types in ("6,1", "run_completed,run_created", "RUN_COMPLETED,1"):
        frames = await all_of(api, run, eventTypes=types)
        assert [frame["event"] for frame in frames] == ["run_created", "run_completed", "end"]
    several = await all_of(api, run, eventTypes=["6", "run_created"])
    assert [frame["event"] for frame in several] == ["run_created", "run_completed", "end"]
    answer = await api.http.get(f"/api/v1/runs/{run}/events", params={"eventTypes": "run_exploded"})
    assert "run_exploded" in error(answer, 400, "SM-7103")["message"]


async def test_events_of_a_sub_run_alone(api: Web) -> None:
    run = (await api.run(MAP, None))["summary"]["runId"]
    (child,) = (await api("GET", "/runs", params={"parentRunId": run}))["runs"]
    frames = await all_of(api, child["runId"])
    assert [frames[0]["event"], frames[-2]["event"], frames[-1]["event"]] == ["sub_run_created", "run_completed", "end"]


async def test_events_come_as_they_happen(door: Door, api: Web) -> None:
    run = (await api.submit(GATE, "x", "y"))["summary"]["runId"]
    async with followed(api, run, eventTypes="item_completed") as frames:
        for index, name in ((1, "y"), (0, "x")):
            door.workshop.let(name)
            assert told(await frames.next()) == ("ItemCompleted", {"runId": run, "itemIndex": index})
        assert (await frames.next())["event"] == "end"
        assert await frames.next() == {}


async def test_a_reader_goes_on_behind_what_it_saw_last(api: Web) -> None:
    run = (await api.run(one_step("/py/double"), *range(5)))["summary"]["runId"]
    whole = await all_of(api, run)
    resumed = 0
    for index, frame in enumerate(whole[:-2]):
        if "id" in frame:
            assert await all_of(api, run, last=frame["id"]) == whole[index + 1 :]
            first = next(place for place, one in enumerate(whole) if frame["id"] in one["data"])
            assert await all_of(api, run, since=int(frame["id"])) == whole[first:]
            resumed += 1
    assert resumed > 10
    filtered = await all_of(api, run, last=whole[0]["id"], eventTypes="run_completed")
    assert filtered == whole[-2:]


async def test_a_reader_that_is_cut_off_misses_nothing_and_sees_nothing_twice(door: Door, api: Web) -> None:
    names = [f"n{number}" for number in range(8)]
    run = (await api.submit(GATE, *names))["summary"]["runId"]
    seen: list[str] = []
    last: str | None = None
    for name in names:
        async with followed(api, run, last=last, eventTypes="item_completed") as frames:
            door.workshop.let(name)
            frame = await frames.next()
            seen.append(str(told(frame)[1]["itemIndex"]))
            last = frame["id"]
    assert seen == [str(number) for number in range(8)]


async def test_who_comes_back_after_the_end_gets_204(api: Web) -> None:
    run = (await api.run(one_step("/py/double"), 1))["summary"]["runId"]
    for query in ({}, {"eventTypes": "run_created"}):
        end = (await all_of(api, run, **query))[-1]
        answer = await api.http.get(f"/api/v1/runs/{run}/events", params=query, headers={"Last-Event-ID": end["id"]})
        assert (answer.status_code, answer.content) == (204, b"")
    answer = await api.http.get(f"/api/v1/runs/{run}/events", params={"since": int(end["id"]) + 1})
    assert answer.status_code == 204


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "1" * 20, "\u00b2"])
async def test_a_position_that_is_none(api: Web, last: str) -> None:
    run = (await api.run(one_step("/py/double"), 1))["summary"]["runId"]
    answer = await api.http.get(f"/api/v1/runs/{run}/events", headers={"Last-Event-ID": last.encode("latin-1")})
    error(answer, 400, "SM-7103")


async def test_a_position_beyond_the_last_of_a_run_that_goes_on(door: Door, api: Web) -> None:
    run = (await api.submit(GATE, "x"))["summary"]["runId"]
    async with followed(api, run, last="9" * 19) as frames:
        door.workshop.let("x")
        assert (await frames.next())["event"] == "end"


async def test_head_opens_no_stream(door: Door, api: Web) -> None:
    run = (await api.submit(GATE, "x"))["summary"]["runId"]
    answer = await api.http.head(f"/api/v1/runs/{run}/events")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert door.gateway.operations.streams.count == 0
    door.workshop.let("x")


async def test_silence_is_broken_by_comments(door: Door, api: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.1)
    run = (await api.submit(GATE, "x"))["summary"]["runId"]
    async with followed(api, run, eventTypes="item_completed") as frames:
        for _ in range(3):
            assert await frames.next() == {":": "hb"}
        door.workshop.let("x")
        while (frame := await frames.next()) == {":": "hb"}:
            pass
        assert frame["event"] == "item_completed", "the page that was awaited meanwhile is not lost"


async def test_a_reader_that_leaves_leaves_nothing_behind(door: Door, api: Web) -> None:
    run = (await api.submit(GATE, "x"))["summary"]["runId"]
    await door.workshop.begun.get()
    before = len(asyncio.all_tasks())
    for _ in range(5):
        async with followed(api, run) as frames:
            await frames.next()
            assert door.gateway.operations.streams.count == 1
        await until(lambda: door.gateway.operations.streams.count == 0)
    door.workshop.let("x")  # ends what the orchestrator still waits with
    await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_open_streams_are_bounded() -> None:
    async with opened(Limits(streams=2)) as door, web(door) as api:
        run = (await api.submit(GATE, "x"))["summary"]["runId"]
        async with followed(api, run), followed(api, run):
            refused = error(await api.http.get(f"/api/v1/runs/{run}/events"), 429, "SM-7004")
            assert refused["status"] == "RESOURCE_EXHAUSTED"
            assert "limits.streams is 2" in refused["message"]
            assert "raise limits.streams" in refused["hint"]
        await until(lambda: door.gateway.operations.streams.count == 0)
        async with followed(api, run):
            door.workshop.let("x")


async def test_a_reader_that_does_not_read_costs_one_page(door: Door, api: Web) -> None:
    """The gateway asks for the next page when the last one is written, and nothing is buffered beside it."""
    text = "x" * 20_000
    run = (await api.run(one_step("/py/echo"), *[f"{text}{number}" for number in range(400)]))["summary"]["runId"]
    pages: list[int] = []
    asked = door.gateway.operations.events

    async def counted(*args: Any) -> Any:
        async for page in asked(*args):
            pages.append(len(page))
            yield page

    door.gateway.operations.events = counted  # type: ignore[method-assign]
    whole = 400 * 20_000 * 2
    async with connected(door) as (reader, writer):
        writer.write(f"GET /api/v1/runs/{run}/events?includeResults=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b": hi")
        stalled, seen = 0, -1
        while stalled < 20:
            await asyncio.sleep(0.02)
            stalled = stalled + 1 if len(pages) == seen else 0
            seen = len(pages)
        written = sum(pages)
        assert written * 20_000 < whole
        connections = door.gateway._http.state.connections  # pyright: ignore[reportPrivateUsage]
        assert 0 < max(connection.transport.get_write_buffer_size() for connection in connections) < 300_000
        received, tail = 0, b""
        while b"event: end\ndata: {}" not in tail:
            piece = await reader.read(1_000_000)
            assert piece
            received += len(piece)
            tail = (tail + piece)[-100:]
        assert received > whole


@pytest.mark.parametrize("unread", [1, 2, 3])
async def test_pages_of_any_size_make_the_same_stream(unread: int) -> None:
    async with opened(Limits(unread_events=unread)) as door, web(door) as api:
        run = (await api.run(one_step("/py/double"), *range(4)))["summary"]["runId"]
        kinds = [told(frame)[0] for frame in (await all_of(api, run))[:-1]]
        each = {"StepsNeeded": 4, "StepReady": 4, "StepStarted": 4, "StepCompleted": 4, "ItemCompleted": 4}
        assert {kind: kinds.count(kind) for kind in kinds} == {"RunCreated": 1, **each, "RunCompleted": 1}


async def test_the_gateway_stops_under_a_reader(door: Door, api: Web) -> None:
    run = (await api.submit(GATE, "x"))["summary"]["runId"]
    async with followed(api, run, eventTypes="item_completed") as frames:
        began = asyncio.get_running_loop().time()
        await door.gateway.stop()
        assert asyncio.get_running_loop().time() - began < 1.5, "not the drain time"
        assert await frames.rest() == [], "cut without an end, so that the reader comes back"
    door.workshop.let("x")


async def test_a_run_that_is_deleted_under_its_reader(door: Door, api: Web) -> None:
    run = (await api.submit(GATE, "x"))["summary"]["runId"]
    async with followed(api, run, eventTypes="run_completed") as frames:
        door.workshop.let("x")
        while frame := await frames.next():
            last = frame
    assert last["event"] == "end"
    await api("DELETE", f"/runs/{run}")
    answer = await api.http.get(f"/api/v1/runs/{run}/events", headers={"Last-Event-ID": last["id"]})
    error(answer, 404, "SM-5003")
    error(await api.http.get(f"/api/v1/runs/{RUN}/events"), 404, "SM-5003")
