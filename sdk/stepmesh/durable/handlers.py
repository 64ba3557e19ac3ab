"""What others may ask a body while it runs: queries, which read its state, and updates, which change it and give a reply.

Handlers are declared in the body, so they see its variables. Invariant: a query asks for nothing and changes nothing that is recorded; an
update runs as a task of the body, at its place in the history, and ends in one reply, which the end of the run waits for. It must not
know how either got here.
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from stepmesh import failures, payloads, signature
from stepmesh.durable.errors import StepFailed
from stepmesh.errors import ComponentError
from stepmesh.signature import Invoke, Signature
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.messages import ErrorCode


class ReadOnly(StepmeshError):
    """SM-1071: a query asked for something that a workflow only does for itself."""

    default_code = "SM-1071"

    @classmethod
    def of(cls, name: str, where: str) -> ReadOnly:
        """`where`: `file:line`."""
        return cls(f"`{name}` at {where} is asked for in a query, which only reads", hint="make it an update: `@wf.update`")


class UnknownHandler(StepmeshError):
    """SM-1072: no query or update of this name is declared, or not yet."""

    default_code = "SM-1072"

    @classmethod
    def of(cls, what: str, name: str, known: list[str]) -> UnknownHandler:
        """`what`: query or update."""
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or sorted(known)
        hint = f"there is {', '.join(near)}" if near else f"declare it in the body, before its first await: `@wf.{what}`"
        return cls(f"the workflow has no {what} `{name}`", hint=hint)


class Handler(NamedTuple):
    """`validate`: called with what `form` read, before it; None = nothing is validated."""

    form: Signature
    validate: Invoke | None = None

    def given(self, arguments: bytes) -> Any:
        """The typed input; as with components, one parameter takes all of it, several its fields."""
        return None if self.form.read is None else self.form.read(arguments)


class Handlers:
    """Of one body."""

    def __init__(self) -> None:
        self.queries: dict[str, Handler] = {}
        self.updates: dict[str, Handler] = {}

    def add_query(self, function: Callable[..., Any], name: str) -> None:
        """Raises `ReadOnly` when it is async: it could wait, and a query does not."""
        if inspect.iscoroutinefunction(function):
            where = f"{function.__code__.co_filename.rpartition('/')[2]}:{function.__code__.co_firstlineno}"
            raise ReadOnly(f"the query `{name}` ({where}) is async, and a query waits for nothing", hint="`def`, or make it an update")
        self.queries[name] = Handler(signature.of(function))

    def add_update(self, function: Callable[..., Any], name: str, validator: Callable[..., Any] | None) -> None:
        """`validator` is called with the same arguments first; what it raises is the reply."""
        self.updates[name] = Handler(signature.of(function), None if validator is None else signature.of(validator).invoke)

    def query(self, name: str, arguments: bytes) -> bytes:
        """Its answer as JSON. Raises `UnknownHandler`, and what it raises."""
        handler = self.queries.get(name)
        if handler is None:
            raise UnknownHandler.of("query", name, [*self.queries])
        return payloads.write(handler.form.invoke(handler.given(arguments), _NO_CONTEXT))

    async def update(self, name: str, arguments: bytes) -> bytes:
        """Its reply as JSON: {value}, or {error: {code, message}}."""
        try:
            return b'{"value":%b}' % payloads.write(await self._updated(name, arguments))
        except asyncio.CancelledError:
            return _error(ErrorCode.CANCELLED, "the run was cancelled")
        except Exception as problem:
            return refused(problem)

    async def _updated(self, name: str, arguments: bytes) -> Any:
        handler = self.updates.get(name)
        if handler is None:
            raise UnknownHandler.of("update", name, [*self.updates])
        given = handler.given(arguments)
        if handler.validate is not None:
            handler.validate(given, _NO_CONTEXT)
        done = handler.form.invoke(given, _NO_CONTEXT)
        return await done if inspect.isawaitable(done) else done


def refused(problem: Exception) -> bytes:
    """The reply to an update that came to this."""
    return _error(_code(problem), failures.text_of(problem))


def _error(code: ErrorCode, message: str) -> bytes:
    return msgspec.json.encode({"error": {"code": int(code), "message": message}})


def _code(problem: Exception) -> ErrorCode:
    if isinstance(problem, ComponentError):
        return ErrorCode(problem.code)
    if isinstance(problem, StepFailed):
        return problem.code
    return ErrorCode.INVALID_INPUT if isinstance(problem, (UnknownHandler, ValueError)) else ErrorCode.COMPONENT_FAILED


_NO_CONTEXT: Any = None
"""Of a component; there is none here."""
