"""A component: a registered function with its path, types and schemas; and the set of those that a worker offers.

Invariant: paths are unique within a registry and begin with `/`. This module must not know tasks or brokers.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, overload

from stepmesh import signature
from stepmesh.errors import BadComponent
from stepmesh.patterns import Pattern, has_parameters
from stepmesh.payloads import Reader
from stepmesh.signature import Invoke
from stepmesh_broker.protocol.messages import ComponentInfo
from stepmesh_broker.protocol.queries import QueryTask

F = TypeVar("F", bound=Callable[..., Any])
_SEGMENT, _NAME = r"[A-Za-z0-9_.~-]+", r"[A-Za-z_][A-Za-z0-9_]*"
_PATH = re.compile(rf"(/({_SEGMENT}|\{{{_NAME}\}}))+(/\{{\*{_NAME}\}})?|/\{{\*{_NAME}\}}")


@dataclass(frozen=True, slots=True)
class Component:
    """`timeout_s`: limit of one attempt in seconds, None = only the step's own. `is_async`: `invoke` returns a coroutine.
    `query`: answers questions to a durable function, as JSON text; `version`: of its code. `heartbeat_s`: how long an attempt may be
    silent, None = as long as it likes."""

    path: str
    name: str
    description: str
    is_async: bool
    timeout_s: float | None
    read: Reader | None
    invoke: Invoke
    input_schema: bytes | None
    output_schema: bytes | None
    query: Callable[[QueryTask], bytes] | None = None
    version: str = ""
    heartbeat_s: float | None = None

    def info(self) -> ComponentInfo:
        """What a worker tells of it."""
        return ComponentInfo(self.path, self.description, self.input_schema, self.output_schema, self.version)


def build(
    function: Callable[..., Any],
    path: str | None = None,
    name: str | None = None,
    description: str | None = None,
    timeout: float | timedelta | None = None,
    heartbeat: float | timedelta | None = None,
) -> Component:
    """A component of `function`. Raises `BadComponent`. `timeout`, `heartbeat` in seconds; `path` defaults to `/<function name>`."""
    called: str = name or str(getattr(function, "__name__", ""))
    where = path if path is not None else f"/{called}"
    if not _PATH.fullmatch(where):
        raise BadComponent(
            f"component path {where!r} does not work", hint="begin with '/', then letters, digits, '_', '-', '.', '~', or {name}"
        )
    limit_s, silent_s = _seconds(where, "timeout", timeout), _seconds(where, "heartbeat", heartbeat)
    form = signature.of(function)
    told = description if description is not None else inspect.getdoc(function) or ""
    return Component(
        where,
        called,
        told,
        _is_async(function),
        limit_s,
        form.read,
        form.invoke,
        form.input_schema,
        form.output_schema,
        heartbeat_s=silent_s,
    )


def _seconds(where: str, what: str, given: float | timedelta | None) -> float | None:
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if seconds is not None and not 0 < seconds < float("inf"):
        raise BadComponent(f"component {where}: {what} {given!r} is not above 0 seconds")
    return seconds


def _is_async(function: Callable[..., Any]) -> bool:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise BadComponent(f"component {function!r} is a generator", hint="return a value")
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


class Components:
    """Components by path, and the decorator that adds to them."""

    def __init__(self) -> None:
        self._by_path: dict[str, Component] = {}
        self._patterns: list[tuple[Pattern, Component]] = []

    @overload
    def component(self, function: F, /) -> F: ...
    @overload
    def component(
        self,
        /,
        *,
        path: str | None = None,
        name: str | None = None,
        description: str | None = None,
        timeout: float | timedelta | None = None,
        heartbeat: float | timedelta | None = None,
    ) -> Callable[[F], F]: ...
    def component(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        path: str | None = None,
        name: str | None = None,
        description: str | None = None,
        timeout: float | timedelta | None = None,
        heartbeat: float | timedelta | None = None,
    ) -> Any:
        """Offer a function, plain or async, as a component. Use as `@component` or `@component(path=…)`.

        `path`: what a flow's route leads to, default `/<function name>`; `{name}` stands for any segment, a last `{*rest}` for all that
        follow (`context.path_params`). `timeout`: seconds for one attempt. `heartbeat`: one
        that does not call `context.heartbeat()` for so many seconds is ended.
        The function itself is returned unchanged. Raises `BadComponent`.
        """

        def register(given: F) -> F:
            self.add(build(given, path, name, description, timeout, heartbeat))
            return given

        return register if function is None else register(function)

    def add(self, component: Component) -> None:
        """Raises `BadComponent` when the path is taken."""
        if component.path in self._by_path:
            raise BadComponent(f"component {component.path} is registered twice", hint="give one of them another path")
        self._by_path[component.path] = component
        if has_parameters(component.path):
            self._patterns.append((Pattern(component.path), component))
            self._patterns.sort(key=lambda entry: entry[0].weight)

    def include(self, others: Components) -> None:
        """Offer all of `others` too. Raises `BadComponent` when a path is taken."""
        for component in others:
            self.add(component)

    def replace(self, components: Iterable[Component]) -> None:
        """Offer exactly these from now on; attempts under way go on. Raises `BadComponent` for two of one path, and keeps what it had."""
        fresh = Components()
        for component in components:
            fresh.add(component)
        self._by_path, self._patterns = fresh._by_path, fresh._patterns

    def get(self, path: str) -> Component | None:
        """The component that was registered under `path`."""
        return self._by_path.get(path)

    def match(self, path: str) -> tuple[Component, dict[str, str]] | None:
        """The component whose path with parameters matches `path`, and what the parameters are."""
        matches = ((component, pattern.match(path)) for pattern, component in self._patterns)
        return next(((component, params) for component, params in matches if params is not None), None)

    def unknown(self, path: str) -> str:
        """A sentence that says that `path` is not here and names what is near."""
        near = difflib.get_close_matches(path, self._by_path, n=3, cutoff=0.5)
        known = sorted(self._by_path)
        offered = f"this worker offers {', '.join(known[:10])}" + (" …" if len(known) > 10 else "") if known else "this worker offers none"
        return f"no component {path}: " + (f"did you mean {' or '.join(near)}?" if near else offered)

    def __iter__(self) -> Iterator[Component]:
        """In order of registration."""
        return iter(self._by_path.values())

    def __len__(self) -> int:
        """How many."""
        return len(self._by_path)
