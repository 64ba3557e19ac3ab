"""Routing: prefixes, parameters, conditions, lists, pools, and what is remembered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.flow import routing
from stepmesh_orchestrator.core.flow.routing import Condition, Pattern, Route, Router, Rule, default_router


def rule(name: str, *conditions: Condition, allow: tuple[str, ...] | None = None, deny: tuple[str, ...] = ()) -> Rule:
    return Rule(name, f"{name}-pool", conditions, allow, deny)


def routed(router: Router, component: str, input: bytes = b"{}") -> str:
    found = router.route(component, input)
    assert isinstance(found, Route), found
    assert found.pool == f"{found.plugin}-pool"
    return f"{found.plugin} {found.component}"


def lost(router: Router, component: str, input: bytes = b"{}") -> str:
    found = router.route(component, input)
    assert isinstance(found, Failure)
    assert found.code == ErrorCode.COMPONENT_NOT_FOUND
    return found.message


def test_the_longest_prefix_of_whole_segments_wins_then_the_root() -> None:
    router = Router({"/": [rule("root")], "/a": [rule("a")], "/a/b": [rule("ab")], "/ab": [rule("other")]})
    assert routed(router, "/a/x") == "a /x"
    assert routed(router, "/a/b/x/y") == "ab /x/y"
    assert routed(router, "/a/bc") == "a /bc"
    assert routed(router, "/ab/x") == "other /x"
    assert routed(router, "/abc/x") == "root /abc/x"
    assert routed(router, "/a") == "root /a"
    assert routed(router, "/a/b") == "a /b"


@pytest.mark.parametrize("pattern", ["/python", "/python/", "/python/{*component}"])
def test_both_forms_of_a_prefix(pattern: str) -> None:
    router = Router({pattern: [rule("py")]})
    assert routed(router, "/python/math/add") == "py /math/add"
    assert "No route for component /pythonic/x" in lost(router, "/pythonic/x")
    assert "nearest routes" in lost(router, "/python")


def test_a_single_segment_component() -> None:
    router = Router({"/openai/{component}": [rule("one")], "/{*component}": [rule("rest")]})
    assert routed(router, "/openai/chat") == "one /chat"
    assert routed(router, "/openai/chat/more") == "rest /openai/chat/more"


def test_parameters() -> None:
    router = Router({"/x/{tenant}/{*component}": [rule("t")], "/x/acme": [rule("acme")], "/y/{region}/{zone}": [rule("z")]})
    found = router.route("/x/globex/do/it", b"{}")
    assert found == Route("t", "t-pool", "/do/it", {"tenant": "globex"})
    assert routed(router, "/x/acme/do") == "acme /do"
    assert router.route("/y/eu/1/c", b"{}") == Route("z", "z-pool", "/c", {"region": "eu", "zone": "1"})
    assert "No route" in lost(router, "/x//do")


@pytest.mark.parametrize("pattern", ["python", "", "/a/{b", "/a/{}", "/a/x{b}", "/{*component}/x", "/{a-b}", "/{*rest}"])
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(ValueError, match="the route"):
        Pattern(pattern)


def test_conditions_are_tried_in_order_and_an_absent_path_is_no_match() -> None:
    router = Router(
        {
            "/llm": [
                rule("big", Condition(("model",), "llama"), Condition(("size", 0), 70)),
                rule("half", Condition(("temperature",), 0.5)),
                rule("null", Condition(("model",), None)),
                rule("object", Condition((), {"a": [True]})),
            ],
            "/": [rule("root")],
        }
    )
    assert routed(router, "/llm/c", b'{"model":"llama","size":[70]}') == "big /c"
    assert routed(router, "/llm/c", b'{"model":"llama","size":[70.0], "x": 1}') == "big /c"
    assert routed(router, "/llm/c", b'{"model":"llama"}') == "root /llm/c"
    assert routed(router, "/llm/c", b'{"temperature":5e-1}') == "half /c"
    assert routed(router, "/llm/c", b'{"model":null}') == "null /c"
    assert routed(router, "/llm/c", b'{"a":[true]}') == "object /c"
    assert routed(router, "/llm/c", b'{"a":[1]}') == "root /llm/c"
    assert routed(router, "/llm/c", b"null") == "root /llm/c"


def test_a_value_that_cannot_be_compared_is_no_match() -> None:
    router = Router({"/a": [rule("x", Condition(("n",), 1))]})
    assert "No route" in lost(router, "/a/c", b'{"n":' + b"9" * 5_000 + b"}")
    assert routed(router, "/a/c", b'{"n":1}') == "x /c"


def test_allow_and_deny_lists_hold_names_or_globs() -> None:
    router = Router({"/p": [rule("listed", allow=("udf", "/math/*"), deny=("/math/secret*",)), rule("rest", deny=("debug_?",))]})
    assert routed(router, "/p/udf") == "listed /udf"
    assert routed(router, "/p/math/add") == "listed /math/add"
    assert routed(router, "/p/math/secret1") == "rest /math/secret1"
    assert routed(router, "/p/udf2") == "rest /udf2"
    assert "No route" in lost(router, "/p/debug_1")
    assert "No route" in lost(Router({"/p": [rule("none", allow=())]}), "/p/x")


def test_the_pool_of_a_step_goes_before_the_route() -> None:
    router = Router({"/p": [rule("a")]})
    assert router.route("/p/c", b"{}", "gpu") == Route("a", "gpu", "/c")
    assert router.route("/p/c", b"{}") == Route("a", "a-pool", "/c")
    assert isinstance(router.route("/q/c", b"{}", "gpu"), Failure)


def test_the_nearest_routes_are_named() -> None:
    router = Router({"/python": [rule("a")], "/pytorch": [rule("b")], "/builtin": [rule("c")]})
    assert lost(router, "/pyton/x") == "No route for component /pyton/x; nearest routes: /python, /pytorch"
    assert "/builtin" in lost(router, "/zzzzz/x")
    assert lost(Router({}), "/x/y") == "No route for component /x/y"
    assert len(lost(router, "/" + "x" * 100_000)) < 300


def test_unconditional_answers_are_the_same_object_again_and_conditional_ones_are_worked_out() -> None:
    router = Router(
        {"/p": [rule("a")], "/q": [rule("b", Condition(("k",), 1)), rule("c")], "/r": [rule("d"), rule("e", Condition(("k",), 1))]}
    )
    assert router.route("/p/c", b"1") is router.route("/p/c", b"2")
    assert router.route("/r/c", b"{}") is router.route("/r/c", b'{"k":1}')
    assert router.route("/p/c", b"1", "x") is router.route("/p/c", b"2", "x")
    assert router.route("/z/c", b"1") is router.route("/z/c", b"2")
    assert routed(router, "/q/c", b'{"k":1}') == "b /c"
    assert routed(router, "/q/c", b'{"k":2}') == "c /c"
    assert routed(router, "/q/c", b'{"k":1}') == "b /c"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_MAX_KNOWN", 3)
    router = Router({"/p": [rule("a")]})
    first = router.route("/p/0", b"")
    for number in range(3):
        router.route(f"/p/{number}", b"")
    assert router.route("/p/0", b"") is first
    router.route("/p/3", b"")
    assert router.route("/p/0", b"") == first
    assert router.route("/p/0", b"") is not first


def test_without_a_configuration() -> None:
    router = default_router()
    assert router.route("/builtin/eval", b"{}") == Route("builtin", "builtin", "/eval")
    assert router.route("/gpu-1/embed/text", b"{}") == Route("gpu-1", "gpu-1", "/embed/text")
    assert router.route("/gpu/embed", b"{}", "spot") == Route("gpu", "spot", "/embed")
    for component in ("/builtin", "/gpu", "/gpu/", "/", "", "gpu/x", "//x", "/a b/c", "/a.b/c", "/>/c", "/*/c", "/" + "p" * 65 + "/c"):
        assert isinstance(router.route(component, b"{}"), Failure), component


@given(st.text(), st.binary(max_size=20))
def test_any_component_is_routed_or_refused(component: str, input: bytes) -> None:
    router = Router({"/": [rule("a", Condition(("x",), 1))], "/p/{q}": [rule("b")]}, lambda component: None)
    assert isinstance(router.route(component, input), Route | Failure)
    assert isinstance(default_router().route(component, input), Route | Failure)
