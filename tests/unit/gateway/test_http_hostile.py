"""What nobody should send: each gets its refusal, nothing is a 500, and the next request is answered."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from tests.unit.gateway.door import Door, one_step
from tests.unit.gateway.web import RUN, Web, connected, error, said, web

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def api(door: Door) -> AsyncIterator[Web]:
    async with web(door) as one:
        yield one
        assert (await one("GET", "/health"))["status"] == "healthy"


async def status_of(door: Door, head: bytes, body: bytes = b"") -> int:
    """The status of the answer to one request, byte for byte; an error has the shape of all errors."""
    answer = await said(door, head + b"\r\nHost: x\r\nConnection: close\r\n\r\n" + body)
    status = int(re.match(rb"HTTP/1.1 (\d+) ", answer)[1])  # type: ignore[index]  # it is an answer, or the test fails
    text = answer.partition(b"\r\n\r\n")[2]
    if status >= 400:
        refusal = msgspec.json.decode(text)
        assert refusal.get("error", {}).get("code", refusal.get("status")) == status
    return status


@pytest.mark.parametrize(
    "path",
    [
        "/", "//", "/api", "/api/v1", "/api/v1/", "/API/V1/health", "/api/v1/health/", "/api/v1//health", "/api//v1/health",
        "/api/v1/./health", "/api/v1/runs/../health", "/api/v1/%2e%2e/v1/health", "/api/v1/runs/%2e%2e/health", "/../../etc/passwd",
        "/api/v1/..%2f..%2fetc/passwd", "/api%2Fv1%2Fhealth%2f", "/api/v1/health%00", "/api/v1/health%0a", "/api/v1/health;x",
        "/api/v1/runs/", "/api/v1/runs//items", "/api/v1/runs/%2F/items", "/favicon.ico", "/docs", "/metric", "/v1/runs",
        "/api/v1/\xc3\xa9".encode("latin-1").decode("latin-1"), "/" + "a" * 5000,
    ],
)  # fmt: skip
async def test_paths_that_lead_nowhere(door: Door, path: str) -> None:
    assert await status_of(door, b"GET %s HTTP/1.1" % path.encode("latin-1")) in (400, 404)


@pytest.mark.parametrize(
    "path",
    [
        b"//api/v1/health",
        b"http://other/api/v1/nothing",
        b"*",
        b"api/v1/health",
        b"/api/v1/runs/%",
        b"/api/v1/runs/%zz",
        b"/api/v1/runs/%ff",
    ],
)
async def test_targets_that_are_odd(door: Door, path: bytes) -> None:
    assert await status_of(door, b"GET %s HTTP/1.1" % path) in (400, 404)


async def test_a_path_may_be_escaped_as_it_likes(door: Door) -> None:
    assert await status_of(door, b"GET /api/v1/%68ealth HTTP/1.1") == 200
    assert await status_of(door, b"GET http://x/api/v1/health HTTP/1.1") == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00" * 100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50, b"hello\r\n\r\n", b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n", b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n",
        b"POST /api/v1/flows HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ],
)  # fmt: skip
async def test_what_is_not_http(door: Door, api: Web, sent: bytes) -> None:
    answer = await said(door, sent)
    assert answer == b"" or re.match(rb"HTTP/1.1 4\d\d ", answer), answer
    if b"\r\n\r\n" in answer:
        assert msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])["error"]["reason"] in ("SM-7110", "SM-7100")


async def test_two_requests_at_once_are_answered_in_order(door: Door) -> None:
    async with connected(door) as (reader, writer):
        writer.write(
            b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 200 ")
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 404 ")
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 200 ")


async def test_nonsense_behind_a_request_that_waits(door: Door, api: Web) -> None:
    run = (await api.submit(one_step("/py/gate"), "x"))["summary"]["runId"]
    async with connected(door) as (reader, writer):
        writer.write(f"GET /api/v1/runs/{run}?wait=true HTTP/1.1\r\nHost: x\r\n\r\n\0\0\0\0".encode())
        assert await reader.read() == b"", "no half answer, and no second one in its place"
    door.workshop.let("x")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "POST", "DELETE", "PROPFIND"])
async def test_methods_that_a_path_does_not_take(api: Web, method: str) -> None:
    found = await api.refused(method, "/health", 405, "SM-7101")
    assert found["hint"] == "it takes GET, HEAD"
    answer = await api.http.request(method, "/api/v1/health")
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin", "none"])
async def test_pages_of_other_sites_change_nothing(door: Door, api: Web, site: str) -> None:
    """A form of any page in the browser reaches this port, and a POST without a body asks the browser for no leave."""
    run = (await api.submit(one_step("/py/gate"), "x"))["summary"]["runId"]
    headers = {"Sec-Fetch-Site": site}
    assert (await api.http.get(f"/api/v1/runs/{run}", headers=headers)).status_code == 200
    if site in ("cross-site", "same-site"):
        for method, path in (("POST", f"/runs/{run}/cancel"), ("DELETE", f"/runs/{run}")):
            found = await api.refused(method, path, 403, "SM-7105", headers=headers)
            assert found["status"] == "PERMISSION_DENIED"
        assert (await api("GET", f"/runs/{run}"))["summary"]["status"] == 1
    else:
        await api("POST", f"/runs/{run}/cancel", headers=headers)
    door.workshop.let("x")


async def test_head_answers_as_get_without_the_body(api: Web) -> None:
    run = (await api.run(one_step("/py/double"), *range(50)))["summary"]["runId"]
    for path in ("/health", f"/runs/{run}", f"/runs/{run}/items", "/openapi.json"):
        path = path if path == "/openapi.json" else f"/api/v1{path}"
        get, head = await api.http.get(path), await api.http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
    answer = await api.http.head(f"/api/v1/runs/{RUN}")
    assert (answer.status_code, answer.content) == (404, b"")


@pytest.mark.parametrize(
    "media", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/octet-stream", "json", "a" * 500]
)
async def test_bodies_of_another_type(api: Web, media: str) -> None:
    headers = {"Content-Type": media} if media else {}
    answer = await api.http.post("/api/v1/flows", content=b'{"flow":{}}', headers=headers)
    found = error(answer, 415, "SM-7104")
    assert found["hint"] == "send Content-Type: application/json"


@pytest.mark.parametrize("media", ["application/json", "APPLICATION/JSON", "application/json; charset=utf-8", "application/json ;x=y"])
async def test_json_by_any_of_its_names(api: Web, media: str) -> None:
    answer = await api.http.post("/api/v1/blobs", content=b'{"data":1}', headers={"Content-Type": media})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b"null", b"1", b'"x"', b"{}{}", b'{"data":}', b'{"data":NaN}', b'{"data":Infinity}', b'{"data":01}', b"{'data':1}",
        b'{"data":1,}', b'{"data":"\xff"}', b'\xef\xbb\xbf{"data":1}', b'{"data":"\x01"}', b"\x00", b'{"data":' + b"[" * 100_000,
        b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"data":"' + b"\\u12" + b'"}', b"<xml/>", b'{"data":1,"blobType":7}',
        b'{"data":1,"filename":[]}', b'{"dat":1}',
    ],
)  # fmt: skip
async def test_bodies_that_are_no_json_or_another(api: Web, body: bytes) -> None:
    answer = await api.http.post("/api/v1/blobs", content=body, headers=JSON)
    assert answer.status_code == 400
    error(answer, 400, answer.json()["error"]["reason"])


@pytest.mark.parametrize("depth", [100, 199, 250, 5_000])
async def test_nesting(api: Web, depth: int) -> None:
    value = b"[" * depth + b"]" * depth
    answer = await api.http.post("/api/v1/blobs", content=b'{"data":%s}' % value, headers=JSON)
    assert answer.status_code in (200, 400)
    flow = await api.store(one_step("/py/echo"))
    answer = await api.http.post("/api/v1/runs", content=b'{"flowId":"%s","input":[%s],"wait":true}' % (flow.encode(), value), headers=JSON)
    assert answer.status_code == (200 if depth < 200 else 400)
    if depth < 200:
        assert answer.json()["results"][0]["output"] == msgspec.json.decode(value)


@pytest.mark.parametrize("digits", [20, 400, 4_000, 100_000])
async def test_numbers_of_any_length(api: Web, digits: int) -> None:
    flow = await api.store(one_step("/py/echo"))
    text = b"9" * digits
    answer = await api.http.post("/api/v1/runs", content=b'{"flowId":"%s","input":[%s],"wait":true}' % (flow.encode(), text), headers=JSON)
    assert answer.status_code in (200, 400)
    if digits < 4_300:
        assert b'"output":%s' % text in answer.content


async def test_keys_that_come_twice(api: Web) -> None:
    twice = b'{"flow":{"name":"a","name":"b","steps":[],"output":null}}'
    found = (await api.http.post("/api/v1/flows", content=twice, headers=JSON)).json()
    assert found["stored"] is False
    assert [one["kind"] for one in found["diagnostics"]["diagnostics"]] == ["duplicateKey"]
    answer = await api.http.post("/api/v1/blobs", content=b'{"data":{"a":1,"a":2}}', headers=JSON)
    assert answer.status_code in (200, 400)


@pytest.mark.parametrize(
    "fields",
    [
        {"flowId": "x"}, {"flowId": 1}, {"flowId": None}, {"input": {}}, {"input": "x"}, {"input": None}, {"overrides": []},
        {"variables": "x"},        {"maxConcurrency": -1}, {"maxConcurrency": 2**32}, {"maxConcurrency": 1.5},
        {"maxConcurrency": "1"}, {"wait": "yes"}, {"wait": 1},
        {"timeoutSecs": -1}, {"timeoutSecs": 10**30}, {"timeoutSecs": 1e300},
    ],
)  # fmt: skip
async def test_fields_of_another_kind(api: Web, fields: dict[str, Any]) -> None:
    flow = await api.store(one_step())
    answer = await api.http.post("/api/v1/runs", json={"flowId": flow, "input": [1], **fields})
    assert answer.status_code == 400, answer.text
    assert next(iter(fields)) in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/runs", "limit=99999999999999999999"), ("/runs", "limit=1.5"), ("/runs", "offset=-1"), ("/runs", "status=%00"),
        ("/runs", "status="),        ("/runs", "maxDepth=4294967296"), ("/runs", "limit=1&limit=1"),
        (f"/runs/{RUN}", "wait=maybe"), (f"/runs/{RUN}", "timeoutSecs=-1"),
        (f"/runs/{RUN}/items", "resultOrder=3"), (f"/runs/{RUN}/steps", "itemIndex=x"), (f"/runs/{RUN}/steps/a", "asof=1.5"),
        (f"/runs/{RUN}/events", "since=-1"), (f"/runs/{RUN}/events", "eventTypes=0"), ("/components", "excludeSchemas=perhaps"),
    ],
)  # fmt: skip
async def test_parameters_of_another_kind(api: Web, path: str, query: str) -> None:
    answer = await api.http.get(f"/api/v1{path}?{query}")
    error(answer, 400, answer.json()["error"]["reason"])


async def test_parameters_that_nobody_knows_are_ignored(api: Web) -> None:
    assert await api("GET", "/runs?nobody=knows&&=&%ff=%ff&limit=2") == {"runs": []}


async def test_a_defect_is_told_apart_from_a_bad_request(door: Door, api: Web, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("a secret detail")

    door.gateway.operations.list_runs = broken  # type: ignore[method-assign,assignment]
    answer: httpx.Response = await api.http.get("/api/v1/runs")
    found = error(answer, 500, "SM-7900")
    assert "secret" not in answer.text
    mark = re.search(r"log entry (\w+)", found["message"])
    assert mark is not None
    assert f"({mark[1]})" in caplog.text
    assert "a secret detail" in caplog.text
