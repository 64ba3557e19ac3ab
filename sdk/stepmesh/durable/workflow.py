"""A workflow: an async function whose body is replayed, with its name, its version and the types of what goes in and out.

Invariant: the version of the code is what was declared and a hash of the function's source; steps are not in it, so that they may be
mended under running workflows. A body is made anew for every replay. It must not know who drives it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, Literal, ParamSpec, TypeVar

from stepmesh import signature
from stepmesh.durable.checkpoints import EACH, ahead_s
from stepmesh.durable.errors import BadWorkflow
from stepmesh.durable.execution import Execution
from stepmesh.durable.flow_control import FlowControl, of_flow, of_step
from stepmesh.durable.guards import log
from stepmesh.durable.identity import Identity
from stepmesh.durable.lifetimes import AS_LONG_AS_IT_TAKES, Lifetime
from stepmesh.durable.limits import USUAL, Limits
from stepmesh.durable.lint import Finding, lint
from stepmesh.durable.steps import returns
from stepmesh.durable.values import journaled
from stepmesh.payloads import Reader, reader
from stepmesh_broker.protocol.messages import ComponentInfo

P = ParamSpec("P")
R = TypeVar("R")
Guard = Literal["error", "warn", "off"]
_DIGITS = 12


class Workflow(Generic[P, R]):
    """`path`: of the component that it is, `/<app>/<name>`. `ahead_s`: see `checkpoints`. Raises `BadWorkflow`, `BadComponent`."""

    def __init__(
        self,
        function: Callable[P, Coroutine[Any, Any, R]],
        path: str,
        name: str = "",
        *,
        version: int | str = 1,
        guard: Guard = "error",
        control: FlowControl | None = None,
        lifetime: Lifetime = AS_LONG_AS_IT_TAKES,
        checkpoint: str = EACH,
    ) -> None:
        self.function = function
        self.name = name or function.__name__
        self.path = path
        _checked(function, self.name)
        self.version = f"{version}+{_hash(function)}"
        self.form = signature.of(function)
        self._lifetime = lifetime
        self.ahead_s = ahead_s(self.name, checkpoint)
        self._description = inspect.getdoc(function) or ""
        self._gates, self._as_step = of_flow(control or {}), of_step(control or {})
        self.findings = lint(function)
        _judged(self.name, self.findings, guard)
        functools.update_wrapper(self, function)

    @functools.cached_property
    def read(self) -> Reader:
        """What it returned, from JSON text."""
        return reader(returns(self.function))

    @property
    def where(self) -> str:
        """`file:line` of the function."""
        return _place(self.function)

    def info(self) -> ComponentInfo:
        """What a worker tells of it."""
        return ComponentInfo(self.path, self._description, self.form.input_schema, self.form.output_schema, self.version)

    def to_dict(self) -> dict[str, Any]:
        """The flow of a run of its own: one step, which is this workflow."""
        step = {"id": self.name, "component": self.path, "input": {"$input": "$"}, **self._as_step}
        told = {"description": self._description} if self._description else {}
        return {"name": self.path.removeprefix("/"), **told, **self._gates, "steps": [step], "output": {"$step": self.name}}

    def begin(
        self,
        run: str,
        input: bytes,
        started_ms: int,
        *,
        recorded: str = "",
        attempt: int = 1,
        limits: Limits = USUAL,
        place: str = "",
        token_of: Callable[[str], str] | None = None,
    ) -> Execution:
        """A body for this run, to be driven with `turn`. `input`: JSON text; `recorded`: the version that the run began with; `place`: what
        it is known by to others, default the run; `token_of`: see `Execution`."""
        identity = Identity(run, self.name, self.version, recorded, attempt, self.suspects)

        async def body() -> R:
            value = None if self.form.read is None else self.form.read(input)

            def begun() -> Awaitable[R]:
                done: Awaitable[R] = self.form.invoke(value, _NO_CONTEXT)
                return done

            return await (begun() if self._lifetime is AS_LONG_AS_IT_TAKES else self._lifetime.of(begun, identity))

        return Execution(body, started_ms, place or run, identity, limits, token_of)

    def written(self, value: Any, limits: Limits = USUAL) -> bytes:
        """What a body returned, or goes on with, as JSON text. Raises `NotSerialisable`, `PayloadTooLarge`."""
        return journaled(self.name, value, _place(self.function), limits.payload_bytes)

    def suspects(self) -> Sequence[str]:
        """Lines of the function that lint finds, as text."""
        return [str(finding) for finding in self.findings]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """The function itself: in a body it is a part of that body, and no run of its own."""
        return self.function(*args, **kwargs)


_NO_CONTEXT: Any = None
"""Of a component: a body has `wf`."""


def _checked(function: Callable[..., Any], name: str) -> None:
    if not inspect.iscoroutinefunction(function):
        raise BadWorkflow(
            f"the workflow `{name}` ({_place(function)}) is not an `async def`, so nothing in it can be waited for",
            hint=f"write `async def {name}(…):` and `await` its steps",
        )


def _judged(name: str, findings: Sequence[Finding], guard: Guard) -> None:
    """Raises what lint found as one error, with the code of the first finding."""
    if not findings or guard == "off":
        return
    told = "; ".join(map(str, findings))
    problem = BadWorkflow(
        f"the body of `{name}` does what a replay would do otherwise: {told}",
        code=findings[0].code,
        hint='correct it, or declare the workflow with guard="warn"',
    )
    if guard == "error":
        raise problem
    log.warning("%s", problem)


def _place(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "?" if code is None else f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}"


def _hash(function: Callable[..., Any]) -> str:
    """Of the source; of the compiled code where there is no file of it."""
    code = inspect.unwrap(function).__code__
    try:
        text = code.co_code if code.co_filename.startswith("<") else inspect.getsource(function).encode()
    except (OSError, TypeError):
        text = code.co_code
    return hashlib.sha256(text).hexdigest()[:_DIGITS]
