"""The parts of a compiled expression. Each is a `Plan` (see plan.py) and knows nothing but indexes and JSON text.

Invariant: `render` takes text apart only where a path asks for it, and joins it otherwise; of what it evaluates, the
first failure in reading order wins, and any failure wins over a skip. `size` counts parts, to bound re-evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.flow import paths
from stepmesh_orchestrator.core.flow.paths import Path
from stepmesh_orchestrator.core.flow.plan import SKIPPED, Outcome, PlanFailed, PlanSkipped, Scope, is_truthy

NULL: Final = b"null"


def expression_failure(message: str) -> Failure:
    """The failure of an expression that has no value."""
    return Failure(ErrorCode.EXPRESSION_FAILURE, message)


class Node:
    """A part that needs all of `mentions`, always, unless a subclass says otherwise."""

    __slots__ = ("mentions", "size", "static")

    def __init__(self, mentions: tuple[int, ...] = (), static: bool = True, size: int = 1) -> None:
        self.mentions = mentions
        self.static = static
        self.size = size

    def blockers(self, scope: Scope) -> list[int]:
        """See `Plan`."""
        if self.static:
            outcomes = scope.outcomes
            return [index for index in self.mentions if outcomes[index] is None]
        found: set[int] = set()
        self.collect(scope, found)
        return sorted(found)

    def collect(self, scope: Scope, found: set[int]) -> None:
        """Add what blocks now to `found`."""
        outcomes = scope.outcomes
        found.update(index for index in self.mentions if outcomes[index] is None)

    def render(self, scope: Scope) -> bytes:
        """See `Plan`."""
        raise AssertionError("every part says how it is rendered")


def combined(parts: Sequence[Node]) -> tuple[tuple[int, ...], int]:
    """The mentions (ascending, no repeats) and the size of several parts together."""
    if len(parts) == 1:
        return parts[0].mentions, parts[0].size + 1
    return tuple(sorted({index for part in parts for index in part.mentions})), 1 + sum(part.size for part in parts)


class Literal(Node):
    """JSON text that is known already."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        super().__init__()
        self.text = text

    def render(self, scope: Scope) -> bytes:
        return self.text


class StepValue(Node):
    """The whole result of a step."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        super().__init__((index,))
        self.index = index

    def render(self, scope: Scope) -> bytes:
        outcome = scope.outcomes[self.index]
        if type(outcome) is bytes:
            return outcome
        raise _no_value(outcome)


class StepPath(Node):
    """What lies at a path in the result of a step; null when the whole result is null."""

    __slots__ = ("index", "missing", "path")

    def __init__(self, index: int, path: Path) -> None:
        super().__init__((index,))
        self.index = index
        self.path = path
        self.missing = expression_failure(f"Path {paths.show(path)} not found")

    def render(self, scope: Scope) -> bytes:
        outcome = scope.outcomes[self.index]
        if type(outcome) is not bytes:
            raise _no_value(outcome)
        found = paths.apply(outcome, self.path)
        if found is not None:
            return found
        if outcome == NULL:
            return NULL
        raise PlanFailed(self.missing)


def _no_value(outcome: Outcome | None) -> PlanFailed | PlanSkipped | AssertionError:
    if isinstance(outcome, Failure):
        return PlanFailed(outcome)
    return PlanSkipped() if outcome is SKIPPED else AssertionError("rendered while a step that it needs has not ended")


class IfSkipped(Node):
    """A reference to a step, with a value for the case that the step was skipped."""

    __slots__ = ("default", "index", "reference")

    def __init__(self, reference: StepValue | StepPath, default: Node) -> None:
        mentions, _ = combined((reference, default))
        super().__init__(mentions, not default.mentions, default.size + 1)
        self.index = reference.index
        self.reference = reference
        self.default = default

    def collect(self, scope: Scope, found: set[int]) -> None:
        outcome = scope.outcomes[self.index]
        if outcome is None:
            found.add(self.index)
        elif outcome is SKIPPED:
            self.default.collect(scope, found)

    def render(self, scope: Scope) -> bytes:
        return (self.default if scope.outcomes[self.index] is SKIPPED else self.reference).render(scope)


class InputValue(Node):
    """The item's input, or what lies at a path in it."""

    __slots__ = ("missing", "path")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.missing = expression_failure(f"Input path {paths.show(path)} not found")

    def render(self, scope: Scope) -> bytes:
        return _at(scope.input, self.path, self.missing)


class ErrorValue(Node):
    """The error that `onError.defaultValue` stands in for, or a part of it."""

    __slots__ = ("missing", "path")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.missing = expression_failure(f"Error path {paths.show(path)} not found")

    def render(self, scope: Scope) -> bytes:
        return _at(scope.error or NULL, self.path, self.missing)


def _at(text: bytes, path: Path, missing: Failure) -> bytes:
    found = paths.apply(text, path)
    if found is None:
        raise PlanFailed(missing)
    return found


class VariableValue(Node):
    """A run variable, or what lies at a path in it; else the default."""

    __slots__ = ("default", "missing", "name", "path")

    def __init__(self, name: str, path: Path, default: Node | None) -> None:
        mentions, size = (default.mentions, default.size + 1) if default else ((), 1)
        super().__init__(mentions, not mentions, size)
        self.name = name
        self.path = path
        self.default = default
        self.missing = expression_failure(f"Undefined variable: {paths.show((name, *path)) if path else name}")

    def _found(self, scope: Scope) -> bytes | None:
        value = scope.variables.get(self.name)
        return None if value is None else paths.apply(value, self.path)

    def collect(self, scope: Scope, found: set[int]) -> None:
        if self.default is not None and self.default.mentions and self._found(scope) is None:
            self.default.collect(scope, found)

    def render(self, scope: Scope) -> bytes:
        found = self._found(scope)
        if found is not None:
            return found
        if self.default is None:
            raise PlanFailed(self.missing)
        return self.default.render(scope)


class Template(Node):
    """JSON text with holes: `chunks[at]` is replaced by the value of the part, for each `(at, part)` of `holes`."""

    __slots__ = ("chunks", "holes")

    def __init__(self, chunks: list[bytes], holes: tuple[tuple[int, Node], ...]) -> None:
        parts = [part for _, part in holes]
        mentions, size = combined(parts)
        super().__init__(mentions, all(part.static for part in parts), size)
        self.chunks = chunks
        self.holes = holes

    def collect(self, scope: Scope, found: set[int]) -> None:
        for _, part in self.holes:
            part.collect(scope, found)

    def render(self, scope: Scope) -> bytes:
        chunks = self.chunks.copy()
        skipped = None
        for at, part in self.holes:
            try:
                chunks[at] = part.render(scope)
            except PlanSkipped as skip:
                skipped = skip
        if skipped is not None:
            raise skipped
        return b"".join(chunks)


class If(Node):
    """`$if`: a failed condition is falsy; a skipped one skips whoever asks."""

    __slots__ = ("condition", "otherwise", "then")

    def __init__(self, condition: Node, then: Node, otherwise: Node) -> None:
        mentions, size = combined((condition, then, otherwise))
        super().__init__(mentions, condition.static and not then.mentions and not otherwise.mentions, size)
        self.condition = condition
        self.then = then
        self.otherwise = otherwise

    def _branch(self, scope: Scope) -> Node:
        try:
            return self.then if is_truthy(self.condition.render(scope)) else self.otherwise
        except PlanFailed:
            return self.otherwise

    def collect(self, scope: Scope, found: set[int]) -> None:
        blocked: set[int] = set()
        self.condition.collect(scope, blocked)
        if blocked:
            found |= blocked
            return
        try:
            branch = self._branch(scope)
        except PlanSkipped:
            return
        branch.collect(scope, found)

    def render(self, scope: Scope) -> bytes:
        return self._branch(scope).render(scope)


class Coalesce(Node):
    """`$coalesce`: the first element that is not null; a failed one propagates, a skipped one counts as null."""

    __slots__ = ("elements",)

    def __init__(self, elements: Sequence[Node]) -> None:
        mentions, size = combined(elements) if elements else ((), 1)
        static = not mentions or (elements[0].static and not any(element.mentions for element in elements[1:]))
        super().__init__(mentions, static, size)
        self.elements = tuple(elements)

    def collect(self, scope: Scope, found: set[int]) -> None:
        for element in self.elements:
            blocked: set[int] = set()
            element.collect(scope, blocked)
            if blocked:
                found |= blocked
                return
            try:
                if _value_or_null(element, scope) is not NULL:
                    return
            except PlanFailed:
                return

    def render(self, scope: Scope) -> bytes:
        for element in self.elements:
            value = _value_or_null(element, scope)
            if value is not NULL:
                return value
        return NULL


def _value_or_null(element: Node, scope: Scope) -> bytes:
    """`NULL` itself for a value that is null and for a skipped one."""
    try:
        value = element.render(scope)
    except PlanSkipped:
        return NULL
    return NULL if value == NULL else value
