"""Declaring, in a body, what others may ask it: `@wf.query` and `@wf.update` over functions of the body, which see its variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from stepmesh.durable.steps import running

F = TypeVar("F", bound=Callable[..., Any])


@overload
def query(function: F, /) -> F: ...
@overload
def query(*, name: str = "") -> Callable[[F], F]: ...
def query(function: Callable[..., Any] | None = None, /, *, name: str = "") -> Any:
    """An ordinary function that tells something of the body as it stands. Raises `ReadOnly` when it is async."""

    def declare(given: Callable[..., Any]) -> Callable[..., Any]:
        running("wf.query").handlers.add_query(given, name or given.__name__)
        return given

    return declare if function is None else declare(function)


@overload
def update(function: F, /) -> F: ...
@overload
def update(*, name: str = "", validator: Callable[..., Any] | None = None) -> Callable[[F], F]: ...
def update(function: Callable[..., Any] | None = None, /, *, name: str = "", validator: Callable[..., Any] | None = None) -> Any:
    """A function, plain or async, that others call and get a reply from: it may change the body's variables, do steps and wait.

    `validator`: called first with the same arguments; what it raises refuses the update. Declare it before the body's first await."""

    def declare(given: Callable[..., Any]) -> Callable[..., Any]:
        running("wf.update").handlers.add_update(given, name or given.__name__, validator)
        return given

    return declare if function is None else declare(function)
