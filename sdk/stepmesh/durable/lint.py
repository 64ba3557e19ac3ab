"""What can be seen in the source of a body without running it: calls that a replay would answer otherwise, handlers that swallow too much.

It reads the function's syntax tree and looks names up where the function would. It proves nothing: what it does not find, guards and
replays do. It must not import or run what it reads.
"""

from __future__ import annotations

import ast
import builtins
import datetime
import inspect
import os
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

_CLOCK = "changes on replay: use wf.now()"
_CALLS: dict[tuple[str, str], tuple[str, str]] = {
    ("datetime", "datetime.now"): ("SM-1010", _CLOCK),
    ("datetime", "datetime.utcnow"): ("SM-1010", _CLOCK),
    ("datetime", "datetime.today"): ("SM-1010", _CLOCK),
    ("datetime", "date.today"): ("SM-1010", _CLOCK),
    **{("time", name): ("SM-1010", _CLOCK) for name in ("time", "time_ns", "monotonic", "perf_counter", "localtime", "gmtime")},
    ("time", "sleep"): ("SM-1010", "stops the worker: use `await wf.sleep(…)`"),
    **{("random", name): ("SM-1010", "changes on replay: use wf.random()") for name in ("random", "randint", "choice", "shuffle")},
    **{("uuid", name): ("SM-1010", "changes on replay: use wf.uuid()") for name in ("uuid1", "uuid4")},
    ("os", "urandom"): ("SM-1010", "changes on replay: use wf.random()"),
    ("os", "getenv"): ("SM-1011", "may differ between workers: read it in a step"),
    ("io", "open"): ("SM-1011", "is done again on replay: move it into a step"),
    ("asyncio", "wait"): ("SM-1013", "gives its answer in no order: use wf.wait(…) or wf.first(…)"),
    ("asyncio", "as_completed"): ("SM-1013", "gives its answers in no order: use wf.first(…) or wf.map(…)"),
    ("asyncio", "to_thread"): ("SM-1012", "is not available in a workflow: make it a step"),
}  # fmt: skip
"""(module, qualified name) → (code, why and what else)."""
_HOMES = {"posix": "os", "_random": "random", "_io": "io", "asyncio.tasks": "asyncio", "asyncio.threads": "asyncio"}
"""Where functions say they are from → the module that people import."""
_AWAITED = {
    *(("stepmesh.durable.wf", name) for name in ("run", "call", "child", "sleep", "sleep_until")),
    ("stepmesh.durable.events", "wait_for_event"),
}  # fmt: skip
_STEP_MAKERS = {("stepmesh.durable.wf", "run"), ("stepmesh.durable.wf", "side_effect")}


class Finding(NamedTuple):
    """`line` counts from 1 in `file`."""

    file: str
    line: int
    code: str
    what: str

    def __str__(self) -> str:
        """`orders.py:44 SM-1010 …`."""
        return f"{os.path.basename(self.file)}:{self.line} {self.code} {self.what}"


def lint(function: Callable[..., Any]) -> list[Finding]:
    """Of the function, and of those of its own module that it calls: in the order of the lines; none when there is no source to read."""
    found: list[Finding] = []
    seen: set[Any] = set()
    left: list[Any] = [inspect.unwrap(function)]
    while left:
        one = left.pop()
        if one not in seen:
            seen.add(one)
            findings, called = _read(one)
            found += findings
            left += called
    return sorted(found)


def _read(function: Callable[..., Any]) -> tuple[list[Finding], list[Any]]:
    """What is found in it, and the functions of its module that it calls."""
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return [], []
    file = inspect.getsourcefile(function) or "?"
    scope = {**vars(builtins), **getattr(function, "__globals__", {}), **_closure(function)}
    steps = {name for node in ast.walk(tree) if isinstance(node, ast.Call) for name in _handed_over(node, scope)}
    nodes = list(_body(tree, scope, steps))
    called = [_resolved(node.func, scope) for node in nodes if isinstance(node, ast.Call)]
    own = [one for one in called if isinstance(one, FunctionType) and one.__module__ == function.__module__]
    return [Finding(file, first - 1 + _line(node), *said) for node in nodes for said in _said(node, scope)], own


def _body(node: ast.AST, scope: dict[str, Any], steps: set[str]) -> Iterator[ast.AST]:
    """Nodes of what a replay runs again: without the functions that are steps."""
    yield node
    makes_step = isinstance(node, ast.Call) and _makes_step(node, scope)
    for part in ast.iter_child_nodes(node):
        is_step = (makes_step and isinstance(part, ast.Lambda)) or (
            isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and part.name in steps
        )
        if not is_step:
            yield from _body(part, scope, steps)


def _handed_over(call: ast.Call, scope: dict[str, Any]) -> list[str]:
    """Names of functions that the call makes steps of."""
    return [part.id for part in call.args if isinstance(part, ast.Name)] if _makes_step(call, scope) else []


def _makes_step(call: ast.Call, scope: dict[str, Any]) -> bool:
    """`wf.run(…)`, `wf.side_effect(…)`, and `step.run(…)` of what is only known when it runs."""
    called = _resolved(call.func, scope)
    if called is None:
        return isinstance(call.func, ast.Attribute) and call.func.attr == "run"
    return (getattr(called, "__module__", ""), getattr(called, "__name__", "")) in _STEP_MAKERS


def _line(node: ast.AST) -> int:
    return int(getattr(node.iter if isinstance(node, ast.comprehension) else node, "lineno", 1))


def _said(node: ast.AST, scope: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Call):
        yield from _call(node, scope)
    elif isinstance(node, ast.Attribute) and _resolved(node, scope) is os.environ:
        yield "SM-1011", "`os.environ` may differ between workers: read it in a step"
    elif isinstance(node, ast.Try):
        yield from _try(node)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _waits(_resolved(node.value.func, scope)):
        yield "SM-1021", f"`{ast.unparse(node.value.func)}(…)` is never awaited: `await` it, or wf.detach(…)"
    elif isinstance(node, (ast.For, ast.comprehension)) and _is_set(node.iter, scope):
        yield "SM-1013", "a set is gone through in no order: sort it first"


def _call(node: ast.Call, scope: dict[str, Any]) -> Iterator[tuple[str, str]]:
    called = _resolved(node.func, scope)
    known = _CALLS.get(_name(called)) if called is not None else None
    if known is not None:
        yield known[0], f"`{ast.unparse(node.func)}()` {known[1]}"


def _waits(called: Any) -> bool:
    """Whether what it gives is to be awaited: of steps, of `wf`, of any `async def`."""
    kind = type(called)
    is_step = (kind.__module__, kind.__name__) == ("stepmesh.durable.steps", "Step")
    return (
        is_step or inspect.iscoroutinefunction(called) or (getattr(called, "__module__", ""), getattr(called, "__name__", "")) in _AWAITED
    )


def _try(node: ast.Try) -> Iterator[tuple[str, str]]:
    for handler in node.handlers:
        caught = "" if handler.type is None else ast.unparse(handler.type)
        everything = handler.type is None or "BaseException" in caught or "CancelledError" in caught
        if everything and _has(ast.Await, node.body) and not _has(ast.Raise, handler.body):
            yield "SM-1015", f"`except {caught}` swallows what cancels and ends a workflow: catch StepFailed or Exception, or raise again"
    if _has(ast.Await, node.finalbody):
        yield "SM-1015", "`finally` waits for something, which is not done when the run is put away: use wf.saga() or wf.shield()"


def _has(kind: type[ast.AST], body: list[ast.stmt]) -> bool:
    return any(isinstance(node, kind) for statement in body for node in ast.walk(statement))


def _is_set(node: ast.expr, scope: dict[str, Any]) -> bool:
    if isinstance(node, ast.Call):
        return _resolved(node.func, scope) in (set, frozenset)
    return isinstance(node, (ast.Set, ast.SetComp))


def _resolved(node: ast.expr, scope: dict[str, Any]) -> Any:
    """What a dotted name stands for, as long as it goes through modules and classes only; None when that is not known."""
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    owner = _resolved(node.value, scope)
    return getattr(owner, node.attr, None) if isinstance(owner, (ModuleType, type)) else None


def _name(called: Any) -> tuple[str, str]:
    called = inspect.unwrap(called) if callable(called) else called  # a guard stands before it, maybe
    owner = getattr(called, "__self__", None)
    if isinstance(owner, type) and not isinstance(called, FunctionType):  # datetime.now
        base = datetime.date if called.__name__ == "today" and owner is datetime.date else owner
        return base.__module__, f"{base.__name__}.{called.__name__}"
    if isinstance(called, MethodType) or (owner is not None and not isinstance(owner, ModuleType)):  # random.random, of its one generator
        return _HOMES.get(type(owner).__module__, type(owner).__module__), str(getattr(called, "__name__", ""))
    module = str(getattr(called, "__module__", "") or getattr(owner, "__name__", ""))
    return _HOMES.get(module, module), str(getattr(called, "__qualname__", ""))


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return dict(inspect.getclosurevars(function).nonlocals)
    except (TypeError, ValueError):
        return {}
