"""JSON Schema (Draft 2020-12) over JSON text, and the variables that a flow declares with it.

Invariant: a schema never reaches out of its document (no network, no files), and checking a value is bounded:
patterns may not backtrack without end, a long list of violations is cut. jsonschema-rs does the checking.
"""

from __future__ import annotations

from typing import Any

import jsonschema_rs

from stepmesh_orchestrator.core.flow import paths
from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.compiled import Variable
from stepmesh_orchestrator.core.flow.findings import Findings
from stepmesh_orchestrator.core.flow.jsontext import dumps, loads
from stepmesh_orchestrator.core.flow.paths import Path

MAX_VIOLATIONS = 20
_MAX_LINE = 300
_LISTED_BELOW = 256 * 1024  # bytes; of larger values only the first violation is worked out (listing 100,000 takes a second)
_PATTERNS = jsonschema_rs.FancyRegexOptions(backtrack_limit=100_000)
_IMPLICIT: dict[str, Any] = {"null": None, "string": "", "integer": 0, "number": 0, "boolean": False}


class Validator:
    """A compiled schema. `secret`: values are masked in messages."""

    def __init__(self, schema: dict[str, Any] | bool, *, secret: bool = False) -> None:
        """Raises `jsonschema_rs.ValidationError` for what is not a schema, `ValueError` for other damage."""
        mask = "(hidden)" if secret else None
        self._compiled = jsonschema_rs.Draft202012Validator(schema, offline=True, mask=mask, pattern_options=_PATTERNS)

    def violations(self, value: bytes) -> list[str]:
        """Empty when `value` (JSON) is valid; else at most 20 lines, each beginning with the JSON path."""
        try:
            plain = loads(value)
            if self._compiled.is_valid(plain):
                return []
            if len(value) > _LISTED_BELOW:
                self._compiled.validate(plain)
            errors = list(self._compiled.iter_errors(plain))[:MAX_VIOLATIONS]
        except jsonschema_rs.ValidationError as first:
            errors = [first]
        except ValueError as problem:
            return [f"$: {_cut(str(problem))}"]
        return [f"{paths.show(tuple(error.instance_path))}: {_cut(error.message)}" for error in errors]


def _cut(message: str) -> str:
    line = message.replace("\n", " ")
    return line if len(line) <= _MAX_LINE else f"{line[: _MAX_LINE // 2]} … {line[-_MAX_LINE // 2 :]}"


def compile_schema(schema: Any, path: Path, findings: Findings, *, secret: bool = False, defs: Any = None) -> Validator | None:
    """A validator; None, with a finding at the place inside the schema, when it is not one. `defs`: `$defs` of the whole."""
    if not isinstance(schema, dict | bool):
        findings.add(Code.SCHEMA, path, "a schema must be an object", "write {type: string}")
        return None
    if (remote := _remote_reference(schema, path)) is not None:
        findings.add(
            Code.SCHEMA_REMOTE, remote, "a schema may only refer to its own document", 'put it under $defs and write {$ref: "#/$defs/name"}'
        )
        return None
    if isinstance(schema, dict) and isinstance(defs, dict):
        schema = {**schema, "$defs": {**defs, **_object(schema.get("$defs"))}}
    try:
        return Validator(schema, secret=secret)
    except ValueError as problem:  # jsonschema_rs.ValidationError is one, with its place
        where = (*path, *getattr(problem, "instance_path", ()))
        findings.add(
            Code.SCHEMA, where, f"not a JSON Schema: {_cut(getattr(problem, 'message', str(problem)))}", "see JSON Schema, Draft 2020-12"
        )
        return None


def _remote_reference(schema: Any, path: Path) -> Path | None:
    """The first `$ref` or `$dynamicRef` that leaves the document. Data under `const`, `enum`, `default`, `examples` is not looked at."""
    if isinstance(schema, list):
        members = list(enumerate(schema))
    elif isinstance(schema, dict):
        for key in ("$ref", "$dynamicRef"):
            if isinstance(schema.get(key), str) and not schema[key].startswith("#"):
                return (*path, key)
        members = [(key, member) for key, member in schema.items() if key not in ("const", "enum", "default", "examples")]
    else:
        return None
    return next((found for key, member in members if (found := _remote_reference(member, (*path, key))) is not None), None)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def declared_variables(schema: Any, path: Path, findings: Findings, defs: Any = None) -> dict[str, Variable]:
    """The variables of `schemas.properties.variables`, by name."""
    properties = _object(_object(schema).get("properties"))
    required = _object(schema).get("required")
    names = required if isinstance(required, list) else []
    for name in names:
        if isinstance(name, str) and name not in properties:
            findings.add(Code.SCHEMA, (*path, "required"), f"`{name[:60]}` is required but not declared under `properties`")
    return {
        name: _variable(name, member, name in names, (*path, "properties", name), findings, defs) for name, member in properties.items()
    }


def _variable(name: str, schema: Any, required: bool, path: Path, findings: Findings, defs: Any) -> Variable:
    details = _object(schema)
    env_var = details.get("env_var")
    secret = details.get("is_secret")
    for key, value, kind in (("env_var", env_var, str), ("is_secret", secret, bool)):
        if value is not None and not isinstance(value, kind):
            findings.add(Code.TYPE, (*path, key), f"`{key}` must be a {'string' if kind is str else 'boolean'}")
    validator = compile_schema(schema, path, findings, secret=secret is True, defs=defs)
    return Variable(
        name=name,
        required=required,
        default=_default(details, required, validator, path, findings),
        secret=secret is True,
        env_var=env_var if isinstance(env_var, str) else None,
        description=str(details.get("description") or ""),
        schema=details,
    )


def _default(details: dict[str, Any], required: bool, validator: Validator | None, path: Path, findings: Findings) -> bytes | None:
    """Explicit, or implied by the type of what is not required; an implied one that its own schema refuses is none."""
    if "default" in details:
        explicit = dumps(details["default"])
        for violation in validator.violations(explicit) if validator else ():
            findings.add(Code.SCHEMA, (*path, "default"), f"the default does not match its own schema: {violation}")
        return explicit
    if required or validator is None:
        return None
    kind = details.get("type")
    kinds = [one for one in kind if isinstance(one, str)] if isinstance(kind, list) else [kind] if isinstance(kind, str) else []
    candidates = (dumps(_IMPLICIT[one]) for one in sorted(kinds, key=lambda one: one != "null") if one in _IMPLICIT)
    return next((one for one in candidates if not validator.violations(one)), None)
