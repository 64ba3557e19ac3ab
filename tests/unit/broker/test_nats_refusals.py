"""What a refusal of JetStream means: to be tried again, or not."""

from __future__ import annotations

import pytest
from nats.js.errors import APIError, BadRequestError, ServerError

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.nats.streams import as_broker_error


@pytest.mark.parametrize(
    ("refusal", "again"),
    [
        (BadRequestError(code=400, err_code=10005, description="no suitable peers for placement, peer offline"), True),
        (BadRequestError(code=400, err_code=10005, description="no suitable peers for placement, tags not matched"), False),
        (BadRequestError(code=400, err_code=10052, description="stream name already in use"), False),
        (ServerError(code=500, err_code=10003, description="cluster is not ready"), True),
    ],
)
def test_only_what_may_pass_is_tried_again(refusal: APIError, again: bool) -> None:
    problem = as_broker_error(refusal, "stream s")
    assert isinstance(problem, BrokerUnavailable) is again
    assert str(refusal.description) in problem.message
