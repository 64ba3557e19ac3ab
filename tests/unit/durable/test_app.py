"""Declaring: what an app knows of its workflows and steps, and what it refuses, with the place and the fix."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic
import pytest

from stepmesh.durable import guards, simple, wf
from stepmesh.durable.app import App
from stepmesh.durable.errors import BadWorkflow, Fatal, RetryAfter
from stepmesh.durable.retrying import Retry
from stepmesh.durable.testing import env
from stepmesh.durable.workflow import Workflow
from stepmesh.errors import ComponentError, InvalidInput
from stepmesh.testing import call
from stepmesh_broker.protocol.histories import Issued, Kind
from stepmesh_orchestrator.core.flow.compile import compile_flow


class Order(msgspec.Struct):
    id: str
    total: int = 0


@dataclass
class Shipped:
    order: str
    label: str


class Line(pydantic.BaseModel):
    sku: str
    count: int = 1


class Basket(pydantic.BaseModel):
    lines: list[Line]


def doubled(basket: Basket) -> Basket:
    return Basket(lines=[Line(sku=line.sku, count=2 * line.count) for line in basket.lines])


def app() -> App:
    return App("orders")


async def test_a_workflow_has_a_path_a_version_and_types() -> None:
    orders = app()

    @orders.step
    async def label(order: Order) -> str:
        return f"{order.id}/{order.total}"

    @orders.workflow(version=3)
    async def ship(order: Order) -> Shipped:
        """Sends an order."""
        return Shipped(order.id, await label(order))

    assert (ship.path, ship.name, ship.version[:2]) == ("/orders/ship", "ship", "3+")
    info = ship.info()
    assert (info.path, info.description) == ("/orders/ship", "Sends an order.")
    assert b'"Order"' in (info.input_schema or b"")
    assert b'"Shipped"' in (info.output_schema or b"")
    async with env(orders) as t:
        run = await t.start(ship, Order("o1", 7))
        assert await run.result() == Shipped("o1", "o1/7")


async def test_pydantic_models_go_in_and_out() -> None:
    @App("orders").workflow
    async def total(basket: Basket) -> Basket:
        other: Basket = await wf.run("doubled", doubled, basket)
        event: Basket = await wf.wait_for_event("more", type=Basket)
        return Basket(lines=[*other.lines, *event.lines])

    async with env(total) as t:
        run = await t.start(total, Basket(lines=[Line(sku="tea")]))
        await t.send("more", {"lines": [{"sku": "cup", "count": 3}]})
        assert await run.result() == Basket(lines=[Line(sku="tea", count=2), Line(sku="cup", count=3)])
        t.crash_at_every_record(run)
        assert b'"Line"' in (total.info().input_schema or b"")
        run = await t.start(total, {"lines": [{"count": 1}]})
        with pytest.raises(InvalidInput, match=r"lines\[0\]\.sku"):
            await run.result()


async def test_a_workflow_calls_another_one_by_itself_or_by_its_path() -> None:
    orders = App("orders")

    @orders.workflow
    async def ship(order: Order) -> Shipped:
        return Shipped(order.id, "label")

    @orders.workflow
    async def both(order: Order) -> list[Any]:
        return [await wf.call(ship, order), await wf.call("/orders/ship", order)]

    async with env(orders) as t:
        run = await t.start(both, Order("o1"))
        assert await run.result() == [Shipped("o1", "label"), {"order": "o1", "label": "label"}]
        t.assert_history(run, ["/orders/ship", "/orders/ship"])


async def test_several_parameters_are_fields_of_the_input() -> None:
    orders = app()

    @orders.workflow
    async def add(left: int, right: int = 2) -> int:
        return left + right

    async with env(add) as t:
        assert await (await t.start(add, {"left": 1})).result() == 3
        run = await t.start(add, {"left": "one"})
        with pytest.raises(InvalidInput, match=r"\$\.left"):
            await run.result()


def test_the_version_is_that_of_the_source() -> None:
    def made(text: str) -> Workflow[Any, Any]:
        scope: dict[str, Any] = {}
        exec(text, scope)
        return App("orders").workflow(scope["ship"])

    one = made("async def ship(): return 1")
    assert one.version == made("async def ship(): return 1").version
    assert one.version != made("async def ship(): return await other()").version


def test_a_def_is_refused_with_the_two_lines_that_mend_it() -> None:
    def ship(order: Order) -> int:
        return 1

    with pytest.raises(BadWorkflow) as caught:
        app().workflow(ship)  # type: ignore[type-var]
    assert caught.value.code == "SM-1073"
    assert "test_app.py:" in str(caught.value)
    assert "async def ship(…):" in caught.value.hint
    assert "await" in caught.value.hint


def test_a_name_stands_for_one_thing() -> None:
    orders = app()

    @orders.step(name="ship")
    async def one() -> None: ...

    with pytest.raises(BadWorkflow, match="`ship` is declared twice in the app `orders`"):

        @orders.workflow
        async def ship() -> None: ...

    with pytest.raises(BadWorkflow, match="name 'a/b' does not work"):
        App("a/b")
    assert [*orders.steps, *orders.workflows] == ["ship"]


def test_what_lint_finds_is_refused_told_or_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    async def late() -> str:
        return str(datetime.datetime.now(datetime.UTC))

    with pytest.raises(BadWorkflow) as caught:
        app().workflow(late)
    assert caught.value.code == "SM-1010"
    line = late.__code__.co_firstlineno + 1
    assert f"test_app.py:{line} SM-1010 `datetime.datetime.now()` changes on replay: use wf.now()" in str(caught.value)

    said: list[str] = []
    monkeypatch.setattr(guards.log, "warning", lambda text, *values: said.append(text % values))
    App("warned", guard="warn").workflow(late)
    assert len(said) == 1
    assert f"test_app.py:{line}" in said[0]
    app().workflow(guard="off")(late)
    assert len(said) == 1


def test_flow_control_of_a_workflow_is_that_of_its_flow() -> None:
    @app().workflow(
        concurrency={"key": "input.customer.id", "limit": 2},
        throttle="100/m",
        debounce={"key": {"$variable": "cart"}, "period": "5s", "max": "1m"},
        idempotency={"key": "input.id"},
        priority=10,
    )
    async def ship(order: dict[str, Any]) -> None:
        """Told of."""

    @app().workflow(concurrency={"key": "input", "policy": "skip"}, throttle={"rate": "1/10m", "key": "input.to"})
    async def mail(order: Any) -> None:
        """Told of."""

    @app().workflow
    async def plain(order: Any) -> None:
        """Told of."""

    document = ship.to_dict()
    assert document["concurrency"] == {"key": {"$input": "$.customer.id"}, "limit": 2}
    compiled = {one.name: compile_flow(one.to_dict()) for one in (ship, mail, plain)}
    assert [str(found) for _, findings in compiled.values() for found in findings.items] == []
    flows = {name: flow for name, (flow, _) in compiled.items() if flow is not None}
    assert {name: [gate.kind for gate in flow.gates] for name, flow in flows.items()} == {
        "ship": ["debounce", "concurrency", "throttle"],
        "mail": ["concurrency", "throttle"],
        "plain": [],
    }
    assert flows["ship"].steps[0].priority == 10
    assert [name for name, flow in flows.items() if flow.idempotency is not None] == ["ship"]


@pytest.mark.parametrize("key", ["customer", "input.", "step.x", ""])
def test_a_key_that_is_not_of_the_input_is_refused(key: str) -> None:
    async def ship(order: Any) -> None: ...

    with pytest.raises(BadWorkflow, match="is no key of runs"):
        app().workflow(throttle={"rate": "1/s", "key": key})(ship)


async def test_options_of_a_step_stand_in_its_command() -> None:
    orders = app()

    @orders.step(retry=Retry(max=3, backoff="2s..1m"), timeout="30s")
    async def charge(order: str) -> int:
        return 7

    @orders.step(pool="gpu", timeout=5)
    def render(order: str, size: int = 2) -> str:
        return order * size

    @orders.workflow
    async def both(order: str) -> list[Any]:
        return [await charge(order), await render(order)]

    async with env(orders) as t:
        run = await t.start(both, "o")
        assert await run.result() == [7, "oo"]
    first, second = (record for record in run.records if isinstance(record, Issued))
    assert (first.kind, first.name) == (Kind.STEP, "charge")
    assert msgspec.json.decode(first.options) == {"retry": {"max": 3, "initial_ms": 2000, "max_ms": 60000}, "timeout_ms": 30000}
    assert (second.kind, second.name, second.arguments) == (Kind.CALL, "/gpu/orders/render", b'{"order":"o","size":2}')
    assert msgspec.json.decode(second.options) == {"timeout_ms": 5000}


async def test_the_steps_of_a_pool_are_components_of_its_workers() -> None:
    orders = app()

    @orders.step(pool="gpu")
    async def render(order: Order) -> str:
        if order.total == 1:
            raise Fatal("no picture")
        if order.total == 2:
            raise RetryAfter("30s")
        return f"{order.id} by {wf.step().name}"

    @orders.step
    async def local() -> None: ...

    (component,) = orders.components("gpu")
    assert component.path == "/orders/render"
    assert b'"order"' in (component.input_schema or b"")
    assert component.read is not None

    async def offered(order: Order) -> Any:
        assert component.read is not None
        return await component.invoke(component.read(msgspec.json.encode({"order": order})), None)  # type: ignore[arg-type]

    assert await call(offered, Order("o1")) == "o1 by offered"
    with pytest.raises(ComponentError) as caught:
        await offered(Order("o1", 1))
    assert (caught.value.code.name, str(caught.value)) == ("WORKER_ERROR", "no picture")
    with pytest.raises(ComponentError) as caught:
        await offered(Order("o1", 2))
    assert caught.value.retry_after_s == 30


async def test_the_small_surface() -> None:
    within = App("small")
    charged: list[str] = []

    @simple.workflow("my-workflow", within=within)
    async def body(input: Any, step: simple.Steps, sleep: Any, wait_for_event: Any) -> Any:
        result = await step.run("process-order", lambda: charged.append(input["order"]) or len(charged))
        await sleep("wait-3-days", "3d")
        payment = await wait_for_event("payment-received", timeout="1h")
        return [result, payment["status"]]

    assert (body.name, body.path) == ("my-workflow", "/small/my-workflow")
    async with env(body) as t:
        run = await t.start(body, {"order": "o1"})
        await t.until(run, waiting_for="payment-received")
        await t.send("payment-received", {"status": "paid"})
        assert await run.result() == [1, "paid"]
        assert run.now_ms - run.history.started_ms == 3 * 86_400_000
    assert charged == ["o1"]
    t.assert_history(run, ["process-order", "wait-3-days", "timer", "payment-received"])


async def test_the_small_surface_without_an_input_and_without_a_decorator() -> None:
    async def body(step: simple.Steps) -> int:
        return await step.run("one", lambda: 1)

    made = simple.create_workflow("without-input", body, within=App("small"))
    async with env(made) as t:
        assert await (await t.start(made)).result() == 1
    with pytest.raises(BadWorkflow, match="async def"):
        simple.create_workflow("plain", lambda step: 1, within=App("small"))  # type: ignore[arg-type,return-value]
