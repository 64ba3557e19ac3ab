"""What stands in for steps, components and flows in a test: values, functions, and failures that come first.

Invariant: a double is found by what the body asks for by name, so it serves steps that are declared and those that are not.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec

from stepmesh import outcome, payloads
from stepmesh.durable.attempts import LocalStep
from stepmesh.durable.steps import Step
from stepmesh.durable.workflow import Workflow
from stepmesh_broker.protocol.histories import Issued, Kind, Settled

Target = Step[..., Any] | Workflow[..., Any] | str
"""What is doubled: a step, a workflow, or the name that the body calls it by: `/openai/chat`, `flow://ship@2`."""
Function = Callable[..., Any]


class Doubles:
    """Of one test. `real`: what answers a name when there is no double, given its input as JSON text."""

    def __init__(self, real: Callable[[str], Function | None]) -> None:
        self._real = real
        self._functions: dict[str, Function] = {}
        self._failures: dict[str, list[BaseException]] = {}
        self.calls: list[tuple[str, Any]] = []

    def mock(self, target: Target, function: Function) -> None:
        """`function` is called with the arguments that the body gave, by their names when there are names."""
        self._functions[name_of(target)] = function

    def fail(self, target: Target, problems: list[BaseException]) -> None:
        """The next attempts raise these, one each."""
        self._failures.setdefault(name_of(target), []).extend(problems)

    def local(self, step: LocalStep) -> LocalStep:
        """The step as it is done in this test."""
        function = self._functions.get(step.command.name)

        def work() -> Awaitable[bytes] | bytes:
            self._begin(step.command)
            return step.plan.work() if function is None else _written(_called(function, step.command.arguments))

        return replace(step, plan=replace(step.plan, work=work, is_async=function is not None or step.plan.is_async))

    async def answer(self, command: Issued, now_ms: int) -> Settled:
        """What comes of a call or child, with the attempts that its options allow."""
        options = msgspec.json.decode(command.options) if command.options else {}
        most = options.get("retry", {}).get("max", 1)
        attempt = 1
        while True:
            try:
                return Settled(command.id, now_ms, await self._attempt(command), attempt=attempt)
            except Exception as problem:
                if attempt >= most:
                    return Settled(command.id, now_ms, failure=outcome.raised(problem).failure, attempt=attempt)
                attempt += 1

    async def _attempt(self, command: Issued) -> bytes:
        self._begin(command)
        function = self._functions.get(command.name)
        real = self._real(command.name) if command.kind is Kind.CALL else None  # a child is a stored flow, and nothing is stored
        if function is not None:
            return await _written(_called(function, command.arguments))
        if real is None:
            raise LookupError(f"nothing answers {command.name}: t.mock({command.name!r}, returns=…)")
        return await _written(real(command.arguments))

    def _begin(self, command: Issued) -> None:
        self.calls.append((command.name, msgspec.json.decode(command.arguments)))
        waiting = self._failures.get(command.name)
        if waiting:
            raise waiting.pop(0)


def name_of(target: Target) -> str:
    """What the body calls it by."""
    if isinstance(target, Step):
        return f"/{target.pool}{target.path}" if target.pool else target.name
    return target.path if isinstance(target, Workflow) else target


def _called(function: Function, arguments: bytes) -> Any:
    given = msgspec.json.decode(arguments)
    return function(**given) if isinstance(given, dict) else function(given)


async def _written(done: Any) -> bytes:
    return payloads.write(await done if inspect.isawaitable(done) else done)
