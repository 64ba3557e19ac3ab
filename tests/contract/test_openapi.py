"""Schemathesis over /openapi.json, against a real port: no 5xx, answers of the promised form, and the gateway stands afterwards.

Seeded, so that it finds the same today and tomorrow; `STEPMESH_API_EXAMPLES` says how many examples each operation gets.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import msgspec
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as promised
from tests.unit.gateway.door import Door, one_step, opened

from stepmesh_gateway.http.app import ROUTES
from stepmesh_gateway.http.openapi import document

EXAMPLES = int(os.environ.get("STEPMESH_API_EXAMPLES", "12"))
CHECKS = [
    not_a_server_error,
    promised.status_code_conformance,
    promised.content_type_conformance,
    promised.response_headers_conformance,
    promised.response_schema_conformance,
    promised.negative_data_rejection,
    promised.unsupported_method,
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A gateway with one ended run, one flow and one blob behind it, in a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def close(opening: Any) -> None:
        await opening.__aexit__(None, None, None)

    opening = opened()
    door: Door = asyncio.run_coroutine_threadsafe(opening.__aenter__(), loop).result(30)
    try:
        yield f"http://127.0.0.1:{door.gateway.port}"
    finally:
        asyncio.run_coroutine_threadsafe(close(opening), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def known(address: str) -> dict[str, str]:
    """Ids of what is there."""
    with httpx.Client(base_url=f"{address}/api/v1") as http:
        flow = http.post("/flows", json={"flow": one_step()}).json()["flowId"]
        run = http.post("/runs", json={"flowId": flow, "input": [1, 2], "wait": True}).json()["summary"]["runId"]
        blob = http.post("/blobs", json={"data": {"a": 1}}).json()["blobId"]
        made = http.post(f"{address}/v1/schedules", json={"id": "yearly", "flow_id": flow, "input": 1, "cron": "0 0 1 1 *"}).json()["id"]
    return {"flowId": flow, "runId": run, "blobId": blob, "stepId": "a", "schedule": made}


schema = schemathesis.openapi.from_dict(msgspec.json.decode(msgspec.json.encode(document(ROUTES))))
"""As it is served: tests/unit/gateway/test_http_routes.py."""


@schema.parametrize()
@hypothesis.settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
def test_an_operation_keeps_its_promises(case: Any, address: str, known: dict[str, str]) -> None:
    """Half of the examples speak of what is there, unless their ids are wrong on purpose."""
    if case.path_parameters and len(str(case.query)) % 2 and _rightly_addressed(case):
        case.path_parameters = {name: known.get(name, value) for name, value in case.path_parameters.items()}
    if case.method == "DELETE" and case.path_parameters and set(case.path_parameters.values()) & set(known.values()):
        return
    _bounded(case)
    case.call_and_validate(base_url=address, checks=CHECKS, timeout=30)


def _rightly_addressed(case: Any) -> bool:
    return case.meta.components[ParameterLocation.PATH].mode is GenerationMode.POSITIVE


def _bounded(case: Any) -> None:
    """No example waits for long."""
    for values in (case.query, case.body):
        if isinstance(values, dict) and "timeoutSecs" in values:
            values["timeoutSecs"] = 0


def test_the_gateway_stands(address: str) -> None:
    assert httpx.get(f"{address}/health").json()["status"] == "healthy"
