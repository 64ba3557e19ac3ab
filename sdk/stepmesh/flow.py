"""Flows in Python: a builder that produces the same document as a YAML author writes.

Invariant: `Flow.to_dict()` holds only keys of the flow language, in its own order, and omits what was not given. Whether the
flow makes sense is for the compiler to say; only what Python can know at once (a path without `/`, an id twice) is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from stepmesh import payloads
from stepmesh.errors import BadFlow
from stepmesh.values import Reference, expression, plain
from stepmesh_broker.protocol.ids import FlowId, content_id

Duration = float | str
"""Seconds, or text such as `500ms`, `30s`, `5m`, `PT1H`."""


class StepHandle(Reference):
    """A step of a flow, and a reference to its result: use it, `handle["field"]` or `handle.path.field` as a value."""

    def __init__(self, step_id: str) -> None:
        super().__init__("$step", step_id, None)
        self.id = step_id


def retry(max_retries: int | None = None, *, backoff: Mapping[str, Any] | None = None, default: Any = None) -> dict[str, Any]:
    """`on_error`: try again, `max_retries` times (3).

    `backoff`: `{type, initial, max, factor, jitter}`. `default`: an expression, used when the retries are spent.
    """
    return _given(
        action="retry",
        maxRetries=max_retries,
        backoff=None if backoff is None else plain(dict(backoff)),
        defaultValue=None if default is None else expression(default),
    )


def use_default(value: Any) -> dict[str, Any]:
    """`on_error`: use `value` (an expression, which may hold `Value.error()`) as the result."""
    return {"action": "useDefault", "defaultValue": expression(value)}


class Flow:
    """A flow under construction.

    Schemas are JSON Schemas (mappings) or Python types. `variables`: name → schema; one with a `default` key is optional.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        description: str | None = None,
        version: str | None = None,
        input_schema: Any = None,
        output_schema: Any = None,
        variables: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._head = _given(name=name, description=description, version=version)
        self._metadata = _given(metadata=None if metadata is None else plain(dict(metadata)))
        self._schemas = _schemas(input_schema, output_schema, variables)
        self._steps: dict[str, dict[str, Any]] = {}
        self._output: dict[str, Any] = {}

    def step(
        self,
        step_id: str,
        component: str,
        input: Any = None,
        *,
        on_error: Mapping[str, Any] | None = None,
        skip: Any = None,
        must_execute: bool | None = None,
        timeout: Duration | None = None,
        pool: str | None = None,
        priority: int | None = None,
        concurrency_key: Any = None,
        concurrency_limit: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> StepHandle:
        """Add a step; returns its handle. `input` and `skip` are expressions. Raises `BadFlow` for an id twice or a path without `/`."""
        if not step_id or step_id in self._steps:
            raise BadFlow(f"step id {step_id!r} is " + ("used twice" if step_id else "empty"), hint="give each step an id of its own")
        if not component.startswith("/"):
            raise BadFlow(f"step {step_id}: component {component!r} is not a path", hint=f"did you mean '/{component}'?")
        self._steps[step_id] = _given(
            id=step_id,
            component=component,
            input=None if input is None else expression(input),
            onError=None if on_error is None else expression(on_error),
            mustExecute=must_execute,
            skip=None if skip is None else expression(skip),
            timeout=timeout,
            pool=pool,
            priority=priority,
            concurrencyKey=None if concurrency_key is None else expression(concurrency_key),
            concurrencyLimit=concurrency_limit,
            metadata=None if metadata is None else plain(dict(metadata)),
        )
        return StepHandle(step_id)

    def output(self, value: Any) -> None:
        """The value of an item: an expression. A later call replaces an earlier one."""
        self._output = {"output": expression(value)}

    def to_dict(self) -> dict[str, Any]:
        """The flow document as JSON-like data."""
        schemas = {"schemas": self._schemas} if self._schemas else {}
        return {**self._head, **schemas, "steps": list(self._steps.values()), **self._output, **self._metadata}

    def to_json(self, indent: int = 0) -> str:
        """The flow document as JSON text, which is YAML too; compact, or indented by `indent` spaces."""
        compact = payloads.write(self.to_dict())
        return (msgspec.json.format(compact, indent=indent) if indent else compact).decode()

    @property
    def id(self) -> FlowId:
        """The id under which this document is stored: SHA-256 of its compact JSON."""
        return FlowId(content_id(payloads.write(self.to_dict())))


def _given(**entries: Any) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if value is not None}


def _schemas(input_schema: Any, output_schema: Any, variables: Mapping[str, Any] | None) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    properties = _given(input=_schema(input_schema, definitions), output=_schema(output_schema, definitions))
    if variables is not None:
        named = {name: _schema(schema, definitions) for name, schema in variables.items()}
        required = [name for name, schema in named.items() if isinstance(schema, Mapping) and "default" not in schema]
        properties["variables"] = {"type": "object", "properties": named, **({"required": required} if required else {})}
    if not properties:
        return {}
    return {"type": "object", **({"$defs": definitions} if definitions else {}), "properties": properties}


def _schema(schema: Any, definitions: dict[str, Any]) -> Any:
    """A schema as JSON-like data; the definitions of a Python type move up to where its references look for them."""
    if schema is None or isinstance(schema, Mapping):
        return None if schema is None else plain(dict(schema))
    text = payloads.schema(schema)
    found: Any = True if text is None else msgspec.json.decode(text)
    if isinstance(found, dict):
        definitions.update(found.pop("$defs", {}))
    return found
