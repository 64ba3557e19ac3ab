"""Component path → plugin, pool and the path that the plugin knows, by the routes of a configuration.

Patterns are prefixes of whole segments: `/python`, `/python/{*component}`, `/x/{param}/{*component}`, and `/` for the
rest. The longest pattern that has a fitting rule wins; its rules are tried in order. Must not know plugins, only their names and pools.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.flow import paths
from stepmesh_orchestrator.core.flow.findings import nearest
from stepmesh_orchestrator.core.flow.jsontext import loads, same
from stepmesh_orchestrator.core.flow.paths import Path

_MAX_KNOWN = 10_000
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_POOL = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a step goes. `component` is what the plugin knows it by; `path_params` are the named segments of the pattern. `timeout_ms`:
    limit of an attempt, from its claim; `queue_ms`: how long it may wait for that; 0 = none."""

    plugin: str
    pool: str
    component: str
    path_params: dict[str, str] | None = None
    timeout_ms: int = 0
    queue_ms: int = 0


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds when the step's input has something at `path` and it equals `value`."""

    path: Path
    value: Any

    def holds(self, input: bytes) -> bool:
        """An absent path is no match."""
        found = paths.apply(input, self.path)
        try:
            return found is not None and same(loads(found), self.value)
        except ValueError:  # a number that Python refuses equals nothing that a configuration can say
            return False


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a route. `allow` and `deny` are component names or globs (`*`, `?`, `[…]`), with or without the leading `/`. The limits
    are those of a `Route`."""

    plugin: str
    pool: str
    conditions: tuple[Condition, ...] = ()
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    timeout_ms: int = 0
    queue_ms: int = 0

    def permits(self, component: str) -> bool:
        """Whether the component may go this way."""
        allowed = self.allow is None or _listed(component, self.allow)
        return allowed and not _listed(component, self.deny)


def _listed(component: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(component, pattern if pattern.startswith("/") else f"/{pattern}") for pattern in patterns)


class Pattern:
    """A route's key. Raises `ValueError` that says what is wrong with it."""

    def __init__(self, text: str) -> None:
        if not text.startswith("/"):
            raise ValueError(f"the route {text!r} does not begin with `/`")
        self.text = text
        segments = [segment for segment in text.split("/") if segment]
        self.rest_is_one_segment = bool(segments) and segments[-1] == "{component}"
        if segments and segments[-1] in ("{*component}", "{component}"):
            segments.pop()
        for segment in segments:
            if ("{" in segment or "}" in segment) and not _PARAMETER.fullmatch(segment):
                raise ValueError(f"the route {text!r} has the segment {segment!r}; only {{name}} and a last {{*component}} are understood")
        self._segments = segments

    @property
    def weight(self) -> tuple[int, int]:
        """Longer first, then fewer parameters."""
        return -len(self._segments), sum(segment.startswith("{") for segment in self._segments)

    def match(self, component: str) -> tuple[str, dict[str, str] | None] | None:
        """The path below the pattern and the parameters; None when it does not fit."""
        given = component[1:].split("/")
        if not component.startswith("/") or len(given) < len(self._segments):
            return None
        parameters: dict[str, str] = {}
        for wanted, segment in zip(self._segments, given, strict=False):
            if wanted.startswith("{") and segment:
                parameters[wanted[1:-1]] = segment
            elif wanted != segment:
                return None
        rest = given[len(self._segments) :]
        if not any(rest) or (self.rest_is_one_segment and len(rest) != 1):
            return None
        return "/" + "/".join(rest), parameters or None


Resolver = Callable[[str], Route | None]


class Router:
    """Routes components. Answers that no condition had a part in are remembered: one look-up each on the hot path."""

    def __init__(self, routes: Mapping[str, Sequence[Rule]], fallback: Resolver | None = None, limits: Sequence[Limits] = ()) -> None:
        """`routes`: pattern → its rules in order. `fallback` is asked when no route fits, `limits` are those of its routes. Raises
        `ValueError` for a bad pattern."""
        rules_of = [rule for rules in routes.values() for rule in rules]
        self.looks_at_inputs = any(rule.conditions for rule in rules_of)
        self.limits_attempts = any(rule.timeout_ms for rule in rules_of) or any(limit.timeout_ms for limit in limits)
        self.limits_waits = any(rule.queue_ms for rule in rules_of) or any(limit.queue_ms for limit in limits)
        self._routes = sorted(((Pattern(text), tuple(rules)) for text, rules in routes.items()), key=lambda route: route[0].weight)
        self._fallback = fallback
        self._known: dict[str | tuple[str, str], Route | Failure] = {}

    def route(self, component: str, input: bytes, pool_override: str | None = None) -> Route | Failure:
        """Where `component` goes for this input; COMPONENT_NOT_FOUND, with the nearest routes, when nowhere."""
        key = component if pool_override is None else (component, pool_override)
        known = self._known.get(key)
        return self._find(component, input, pool_override, key) if known is None else known

    def _find(self, component: str, input: bytes, pool_override: str | None, key: str | tuple[str, str]) -> Route | Failure:
        route, conditional = self._search(component, input)
        if route is None and self._fallback is not None:
            route = self._fallback(component)
        if route is not None and pool_override is not None:
            route = replace(route, pool=pool_override)
        found = route or self._not_found(component)
        if not conditional:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = found
        return found

    def _search(self, component: str, input: bytes) -> tuple[Route | None, bool]:
        """The route, and whether a condition was looked at on the way."""
        conditional = False
        for pattern, rules in self._routes:
            match = pattern.match(component)
            if match is None:
                continue
            rest, parameters = match
            for rule in rules:
                if not rule.permits(rest):
                    continue
                conditional = conditional or bool(rule.conditions)
                if all(condition.holds(input) for condition in rule.conditions):
                    return Route(rule.plugin, rule.pool, rest, parameters, rule.timeout_ms, rule.queue_ms), conditional
        return None, conditional

    def _not_found(self, component: str) -> Failure:
        patterns = [pattern.text for pattern, _ in self._routes]
        near = nearest("/" + component.lstrip("/").split("/")[0], patterns, 3) or patterns[:5]
        shown = component if len(component) <= 100 else component[:100] + "…"
        hint = f"; nearest routes: {', '.join(near)}" if near else ""
        return Failure(ErrorCode.COMPONENT_NOT_FOUND, f"No route for component {shown}{hint}")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a pool: see `Route`."""

    timeout_ms: int = 0
    queue_ms: int = 0


def default_router(limits: Mapping[str, Limits] | None = None) -> Router:
    """Without routes: `/builtin/…` is the built-in plugin; `/<pool>/<component…>` is that pool's component. `limits`: by pool."""
    known = limits or {}

    def limited(component: str) -> Route | None:
        route = _by_first_segment(component)
        limit = None if route is None else known.get(route.pool)
        return route if route is None or limit is None else replace(route, timeout_ms=limit.timeout_ms, queue_ms=limit.queue_ms)

    return Router({"/builtin": (Rule("builtin", "builtin"),)}, limited, list(known.values()))


def _by_first_segment(component: str) -> Route | None:
    pool, _, rest = component[1:].partition("/")
    if component.startswith("/") and rest and _POOL.fullmatch(pool):
        return Route(pool, pool, "/" + rest)
    return None
