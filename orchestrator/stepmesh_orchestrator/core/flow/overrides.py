"""Overrides of one run: changes to step objects of a stored flow, before it is compiled for that run.

`{"steps": {"<id>": {"$type": "merge_patch", "value": {…}}}}` or, short, `{"<id>": {"value": {…}}}`. merge_patch is
RFC 7396, json_patch RFC 6902; both work on copies. The flow keeps its id.
"""

from __future__ import annotations

from typing import Any

from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostic, Diagnostics, FlowInvalid
from stepmesh_orchestrator.core.flow.document import from_value
from stepmesh_orchestrator.core.flow.findings import nearest
from stepmesh_orchestrator.core.flow.json_patch import PatchError, json_patch
from stepmesh_orchestrator.core.flow.jsontext import loads

_KEYS = ("$type", "value")


def apply_overrides(document: Any, overrides: bytes) -> Any:
    """A copy of the flow `document` (plain values) with each step patched. Raises `FlowInvalid` SM-2040."""
    try:
        given = from_value(loads(overrides), name="overrides").value
    except ValueError as problem:
        raise _refused(f"not JSON: {problem}", "give a JSON object") from problem
    if not isinstance(given, dict):
        raise _refused("not an object", 'write {"steps": {"id": {"value": {…}}}}')
    wanted = given["steps"] if set(given) == {"steps"} and isinstance(given["steps"], dict) else given
    steps = list(document.get("steps") or []) if isinstance(document, dict) else []
    indexes = {step["id"]: index for index, step in enumerate(steps) if isinstance(step, dict) and isinstance(step.get("id"), str)}
    for step_id, override in wanted.items():
        if step_id not in indexes:
            near = nearest(step_id, indexes)
            raise _refused(f"there is no step `{step_id[:60]}`", f"did you mean `{near[0]}`?" if near else "give the id of a step")
        steps[indexes[step_id]] = _patched(steps[indexes[step_id]], override, step_id)
    return {**document, "steps": steps} if wanted else document


def _patched(step: dict[str, Any], override: Any, step_id: str) -> Any:
    if not isinstance(override, dict) or "value" not in override or set(override) - set(_KEYS):
        raise _refused(f"the override of `{step_id}` is not understood", 'write {"$type": "merge_patch", "value": {…}}')
    kind = override.get("$type") or "merge_patch"
    if kind == "json_patch":
        try:
            patched = json_patch(step, override["value"])
        except PatchError as problem:
            raise _refused(f"the patch of `{step_id}` does not apply: {problem}", "see RFC 6902") from problem
    elif kind == "merge_patch":
        patched = merge_patch(step, override["value"])
    else:
        raise _refused(f"the override of `{step_id}` has the unknown type {str(kind)[:60]!r}", "use merge_patch or json_patch")
    if not isinstance(patched, dict):
        raise _refused(f"the override of `{step_id}` leaves no step object", "patch members of the step, not the step itself")
    return patched


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2. Returns a new value; members that are not touched are shared."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def _refused(message: str, hint: str) -> FlowInvalid:
    found = Diagnostic(Code.OVERRIDE.code, Code.OVERRIDE.level, f"overrides: {message}", hint=hint)
    return FlowInvalid(found.message, Diagnostics([found]), code=found.code, hint=hint)
