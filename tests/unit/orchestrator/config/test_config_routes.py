"""A configuration's routes, from the file to where a step goes."""

from __future__ import annotations

from typing import Any

import pytest

from stepmesh_broker.protocol.messages import Failure
from stepmesh_orchestrator.config import parse_config
from stepmesh_orchestrator.core.flow.routing import Route, Router

PLUGINS = "plugins: {builtin: {type: builtin}, py: {type: grpc, queueName: cpu}, gpu: {type: grpc}}\n"


def router(text: str, **environment: str) -> Router:
    return parse_config(PLUGINS + text, environment)[0].router()


def went(routes: Router, component: str, input: bytes = b"null") -> tuple[str, str] | None:
    """(pool, component); None when nowhere."""
    found = routes.route(component, input)
    return None if isinstance(found, Failure) else (found.pool, found.component)


@pytest.mark.parametrize("pattern", ["/python", "/python/{*component}", "/python/"])
def test_both_forms_of_a_prefix(pattern: str) -> None:
    routes = router(f'routes: {{"{pattern}": [{{plugin: py}}]}}')
    assert went(routes, "/python/udf") == ("cpu", "/udf")
    assert went(routes, "/python/a/b") == ("cpu", "/a/b")
    assert went(routes, "/pythonic/udf") is None
    assert went(routes, "/python") is None


@pytest.mark.parametrize(
    "rule",
    [
        "{plugin: py, queueName: big}",
        "{plugin: py, queue_name: big}",
        "{plugin: py, params: {queueName: big}}",
        "{plugin: py, queueName: big, params: {queueName: other}}",
    ],
)
def test_a_parameter_picks_the_pool(rule: str) -> None:
    routes = router(f"routes: {{/x: [{rule}], /y: [{{plugin: py}}]}}")
    assert went(routes, "/x/f") == ("big", "/f")
    assert went(routes, "/y/f") == ("cpu", "/f")


@pytest.mark.parametrize("name", ["a pool", "''", "5.5", "[x]"])
def test_a_parameter_that_is_no_pool_is_an_error_with_its_place(name: str) -> None:
    with pytest.raises(Exception, match="routes") as raised:
        router(f"routes: {{/x: [{{plugin: py, params: {{queueName: {name}}}}}]}}")
    assert getattr(raised.value, "code", "") == "SM-0200"


@pytest.mark.parametrize(
    ("input", "pool"),
    [
        (b'{"size":{"kind":"large"},"n":3}', "gpu"),
        (b'{"size":{"kind":"large"},"n":3.0}', "gpu"),
        (b'{"size":{"kind":"large"},"n":4}', "cpu"),
        (b'{"size":{"kind":"large"}}', "cpu"),
        (b'{"size":{"kind":null},"n":3}', "cpu"),
        (b'{"size":5,"n":3}', "cpu"),
        (b"[]", "cpu"),
        (b"null", "cpu"),
    ],
)
def test_all_conditions_must_hold_and_an_absent_path_is_no_match(input: bytes, pool: str) -> None:
    conditions = "[{path: $.size.kind, value: large}, {path: n, value: 3}]"
    routes = router(f"routes: {{/m: [{{plugin: gpu, conditions: {conditions}}}, {{plugin: py}}]}}")
    assert went(routes, "/m/embed", input) == (pool, "/embed")


def test_a_condition_on_null_wants_the_null_to_be_there() -> None:
    routes = router("routes: {/m: [{plugin: gpu, conditions: [{path: $.a, value: null}]}]}")
    assert went(routes, "/m/x", b'{"a":null}') == ("gpu", "/x")
    assert went(routes, "/m/x", b"{}") is None


def test_allow_and_deny_choose_the_rule() -> None:
    rules = "[{plugin: gpu, componentAllow: [embed, 'img/*'], componentDeny: [img/raw]}, {plugin: py, componentDeny: [/secret]}]"
    routes = router(f"routes: {{/m: {rules}}}")
    assert went(routes, "/m/embed") == ("gpu", "/embed")
    assert went(routes, "/m/img/scale") == ("gpu", "/img/scale")
    assert went(routes, "/m/img/raw") == ("cpu", "/img/raw")
    assert went(routes, "/m/other") == ("cpu", "/other")
    assert went(routes, "/m/secret") is None
    assert went(router("routes: {/m: [{plugin: py, componentAllow: []}]}"), "/m/x") is None


def test_the_environment_is_in_names_of_routes_plugins_and_parameters() -> None:
    plugins = 'plugins: {"${NAME}": {type: grpc, queueTimeoutSecs: "${WAIT}"}}\n'
    text = 'routes: {"/${NAME}": [{plugin: "${NAME}", queueName: "${POOL:-q}"}]}\n'
    found = parse_config(plugins + text, {"NAME": "far", "WAIT": "4"})[0].router().route("/far/x", b"1")
    assert found == Route("far", "q", "/x", queue_ms=4_000)
    plain: dict[str, Any] = parse_config('plugins: {b: {type: mcp, command: "$${X}", env: {"$${Y}": z}}}', {})[0].plugins["b"].model_dump()
    assert (plain["command"], plain["env"]) == ("${X}", {"${Y}": "z"})


def test_limits_of_a_plugin_go_with_its_routes_and_the_default_wait_is_none() -> None:
    waits = "{type: grpc, executionTimeoutSecs: 2.5, queueTimeoutSecs: 30}"
    plugins = f"plugins: {{a: {waits}, b: {{type: nats, url: x, stream: S}}, c: {{type: mcp, url: u}}}}\n"
    routes = parse_config(plugins + "routes: {/a: [{plugin: a, queueName: q}], /b: [{plugin: b}]}", {})[0].router()
    assert (routes.limits_attempts, routes.limits_waits) == (True, True)
    assert routes.route("/a/x", b"1") == Route("a", "q", "/x", timeout_ms=2_500, queue_ms=30_000)
    assert routes.route("/b/x", b"1") == Route("b", "b", "/x")
    bare = parse_config(plugins, {})[0].router()
    assert bare.route("/a/x", b"1") == Route("a", "a", "/x", timeout_ms=2_500, queue_ms=30_000)
    none = parse_config("plugins: {b: {type: grpc}}", {})[0].router()
    assert (none.limits_attempts, none.limits_waits) == (False, False)
