"""Routes of flows."""

from __future__ import annotations

from stepmesh_broker.protocol.ids import FlowId
from stepmesh_gateway.http import messages, views
from stepmesh_gateway.http.registry import Asked, NoQuery, Ok, Route, Scope
from stepmesh_gateway.translate.fields import flow_id


async def store_flow(asked: Asked[NoQuery, messages.StoreFlow]) -> messages.FlowStored:
    """What is wrong with it, and whether it was stored."""
    return views.flow_stored(await asked.operations.store_flow(bytes(asked.body.flow), bool(asked.body.dry_run)))


async def get_flow(asked: Asked[NoQuery, None]) -> messages.Flow:
    """The document, with inputs to try it with."""
    return views.flow(await asked.operations.get_flow(_flow(asked)))


async def get_variables(asked: Asked[NoQuery, None]) -> messages.Variables:
    """What it declares."""
    return views.variables(await asked.operations.variables(_flow(asked)))


async def delete_flow(asked: Asked[NoQuery, None]) -> Ok:
    """Only while no live run uses it."""
    await asked.operations.delete_flow(_flow(asked))
    return Ok()


def _flow(asked: Asked[object, object]) -> FlowId:
    return flow_id(asked.path["flowId"], "flowId")


ROUTES = (
    Route(
        method="POST", path="/api/v1/flows", scope=Scope.DEPLOY, summary="Check and store a flow", handler=store_flow,
        body=messages.StoreFlow, answer=messages.FlowStored,
    ),
    Route(method="GET", path="/api/v1/flows/{flowId}", scope=Scope.READ, summary="A stored flow", handler=get_flow, answer=messages.Flow),
    Route(
        method="DELETE", path="/api/v1/flows/{flowId}", scope=Scope.DEPLOY, summary="Remove a flow that no live run uses",
        handler=delete_flow, answer=Ok,
    ),
    Route(
        method="GET", path="/api/v1/flows/{flowId}/variables", scope=Scope.READ, summary="The variables that a flow declares",
        handler=get_variables, answer=messages.Variables,
    ),
)  # fmt: skip
