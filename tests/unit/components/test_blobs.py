"""put_blob and get_blob against a real engine in memory."""

import base64
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stepmesh_components import builtin_worker

Run = Callable[..., Awaitable[Any]]
ROUND_TRIP = {
    "name": "blobs",
    "steps": [
        {"id": "put", "component": "/builtin/put_blob", "input": {"$input": "$"}},
        {"id": "get", "component": "/builtin/get_blob", "input": {"blob_id": {"$step": "put", "path": "blob_id"}}},
    ],
    "output": {"put": {"$step": "put"}, "get": {"$step": "get"}},
}
HUGE = 123456789012345678901234567890


@pytest.mark.parametrize("data", [None, 0, False, "", [], {}, {"b": HUGE, "a": [1.0, 9007199254740993, "é"]}, "☀ text"])
async def test_json_round_trip(run: Run, data: Any) -> None:
    told = await run([builtin_worker()], ROUND_TRIP, {"data": data})
    assert told["outcome"] == "success", told
    assert told["result"]["get"] == {"data": data, "blob_type": "data"}


async def test_id_is_the_digest_of_the_compact_text_in_source_order(run: Run) -> None:
    told = await run([builtin_worker()], ROUND_TRIP, {"data": {"b": 1, "a": 2.0}})
    assert told["result"]["put"]["blob_id"] == hashlib.sha256(b'{"b":1,"a":2.0}').hexdigest()


async def test_binary_round_trip_keeps_name_and_type(run: Run) -> None:
    content = bytes(range(256))
    text = base64.b64encode(content).decode()
    told = await run(
        [builtin_worker()], ROUND_TRIP, {"data": text, "blob_type": "binary", "filename": "a.bin", "content_type": "application/x"}
    )
    assert told["result"]["put"]["blob_id"] == hashlib.sha256(content).hexdigest()
    assert told["result"]["get"] == {"data": text, "blob_type": "binary", "filename": "a.bin", "content_type": "application/x"}


@pytest.mark.parametrize("data", ["not base64!", "YQ", 5, {"a": 1}])
async def test_binary_must_be_base64(run: Run, data: Any) -> None:
    told = await run([builtin_worker()], ROUND_TRIP, {"data": data, "blob_type": "binary"})
    assert told["outcome"] == "failed"
    assert told["error"]["code"] == "INVALID_INPUT"
    assert "base64" in told["error"]["message"]


async def test_unknown_kind_is_bad_input(run: Run) -> None:
    told = await run([builtin_worker()], ROUND_TRIP, {"data": 1, "blob_type": "video"})
    assert told["error"]["code"] == "INVALID_INPUT"


async def test_unknown_blob_is_bad_input_that_names_it(run: Run) -> None:
    flow = {
        "name": "get",
        "steps": [{"id": "get", "component": "/builtin/get_blob", "input": {"blob_id": {"$input": "$"}}}],
        "output": {"$step": "get"},
    }
    told = await run([builtin_worker()], flow, "0" * 64)
    assert told["error"]["code"] == "INVALID_INPUT"
    assert "0" * 64 in told["error"]["message"]


async def test_a_stored_flow_can_be_run_by_its_blob_id(run: Run) -> None:
    flow = {
        "name": "stored",
        "steps": [
            {
                "id": "put",
                "component": "/builtin/put_blob",
                "input": {"blob_type": "flow", "data": {"$literal": {"name": "inner", "steps": [], "output": {"$input": "n"}}}},
            },
            {
                "id": "eval",
                "component": "/builtin/eval",
                "input": {"flow_id": {"$step": "put", "path": "blob_id"}, "input": {"n": HUGE}},
            },
        ],
        "output": {"$step": "eval", "path": "result"},
    }
    assert await run([builtin_worker()], flow) == {"outcome": "success", "result": {"outcome": "success", "result": HUGE}}
