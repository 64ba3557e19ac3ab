"""How a body's commands and its history differ, and what that most likely means. Pure comparison; the message is for a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import msgspec

from stepmesh.durable.identity import Identity
from stepmesh_broker.protocol.histories import Issued, Settled

AHEAD = 10
"""Records of a scope that are looked at to tell an insertion from a removal."""
SHOWN = 80
"""Characters of an argument that a message shows."""
AROUND = 5
"""Commands before and after a divergence that a message shows."""


@dataclass(frozen=True)
class Divergence:
    """`code`: SM-1001 to SM-1005. `where`: `file:line` in the code as it is now, or as it was recorded when there is none now. `new`: name
    of what the code asks for and the history lacks, "" when that is not the matter. `around`: names of commands in the same task, those
    that were recorded before and after it."""

    code: str
    id: str
    where: str
    what: str
    recorded: str
    now: str
    cause: str
    new: str = ""
    around: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    identity: Identity = field(default_factory=Identity)

    def between(self, before: Iterable[str], after: Iterable[str]) -> Divergence:
        """The same, with what stands around it."""
        return replace(self, around=(tuple(before), tuple(after)))

    def of(self, identity: Identity) -> Divergence:
        """The same, of this run. On the build that the run began with no deployment is to blame: SM-1005, with what lint finds."""
        if not identity.same_build:
            return replace(self, identity=identity)
        suspects = (
            "; ".join(identity.suspects()) or "lint finds nothing: look for what differs between two processes, such as the order of a set"
        )
        cause = f"no deployment: the run began on this very build. {self.cause} Suspects in the body: {suspects}"
        return replace(self, identity=identity, code="SM-1005", cause=cause)

    def __str__(self) -> str:
        """For a person, as the catalogue of durable functions lays it out."""
        build = self.identity.recorded and f"    build {self.identity.recorded}"
        now = self.identity.version and f"    build {self.identity.version}"
        fixes = "\n                 ".join(f"- {fix}" for fix in self._fixes())
        return (
            f"{self.code} Replay diverged at {self.where}: {self.what}\n\n"
            f"  run        {self.identity}\n  at         {self.id}\n  recorded   {self.recorded}{build}\n  now        {self.now}{now}\n"
            f"  history    {self._history()}\n\n"
            f"  Likely cause   {self.cause}\n"
            f"  The run        is BLOCKED at {self.id}. Nothing was done twice and nothing is lost: it goes on once the code fits again.\n"
            f"  Do one of      {fixes}"
        )

    def _history(self) -> str:
        """`reserve, → charge, ship`: the arrow is where it is."""
        before, after = self.around
        return ", ".join((*before, f"→ {self.id.partition('/')[2]}", *after))

    def _fixes(self) -> list[str]:
        if self.code == "SM-1005":
            return ["take what changes by itself out of the body: wf.now(), wf.random(), wf.uuid(), a step; sort what has no order"]
        guard = f'guard it:   if wf.patched("{self.new}"): await {self.new}(…)' if self.new else 'guard the change:   if wf.patched("…"): …'
        if self.code == "SM-1002":
            guard = "pass what does not change on a replay: wf.now(), wf.random(), wf.uuid(), or the result of a step"
        old = f" {self.identity.recorded}" if self.identity.recorded else ""
        return [
            guard,
            f"keep a worker with the old build{old} until the runs that began on it have ended",
            f"put the code back as it was, or choose other code:   stepmesh resume {self.identity.run or 'RUN'} --version …",
        ]


def compared(recorded: Issued, now: Issued, ahead: Iterable[Issued], issued: Sequence[str]) -> Divergence | None:
    """None when the body asks again for what it asked for. `ahead`: what the history has next in this scope; `issued`: names that the body
    asked for in this scope before."""
    if (recorded.kind, recorded.name, recorded.id) != (now.kind, now.name, now.id):
        what = "this run recorded a different step than the code now issues."
        cause = _moved(recorded, now, ahead, issued)
        return Divergence("SM-1001", recorded.id, now.where, what, shown(recorded), shown(now), cause, now.name)
    if recorded.fingerprint and now.fingerprint and recorded.fingerprint != now.fingerprint:
        field, was, is_now = difference(recorded.arguments, now.arguments)
        what = f"`{now.name}` is called with other arguments: {field} was {was} and is {is_now}."
        return Divergence("SM-1002", recorded.id, now.where, what, shown(recorded), shown(now), _changing(was, is_now))
    return None


def unasked(result: Settled, command: Issued | None) -> Divergence:
    """The history has the result of something that the body did not ask for by then."""
    name = result.id if command is None else command.name
    what = f"the journal has the result of `{name}`, and the code no longer waits for it."
    cause = f"`{name}` was removed, or stands behind something that is now waited for."
    where = "?" if command is None else command.where
    return Divergence("SM-1003", result.id, where, what, "its result" if command is None else shown(command), "nothing", cause)


def unfinished(remaining: Sequence[Issued], last: Issued | None) -> Divergence:
    """The body ended although its history goes on."""
    first = remaining[0]
    what = f"the code ended, and {len(remaining)} recorded step{'s' if len(remaining) > 1 else ''} remain."
    point = "its beginning" if last is None else f"`{last.name}` at {last.where}"
    cause = f"an early return, or a branch after {point} that goes the other way now."
    return Divergence("SM-1004", first.id, first.where, what, shown(first), "the end", cause)


def shown(command: Issued) -> str:
    """`step charge(order="ord_7", total=1200)    orders.py:31`."""
    return f"{command.kind} {command.name}({_arguments(command.arguments)})    {command.where}"


def _arguments(data: bytes) -> str:
    value = msgspec.json.decode(data)
    parts = [f"{key}={_short(part)}" for key, part in value.items()] if isinstance(value, dict) else [_short(value)]
    return ", ".join(parts)


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def difference(recorded: bytes, now: bytes) -> tuple[str, str, str]:
    """The first place at which two JSON values differ, and what stands there in each (JSON text, `nothing` where it is missing)."""
    path, was, is_now = _differ("$", msgspec.json.decode(recorded), msgspec.json.decode(now))
    return path, *("nothing" if part is _MISSING else _short(part) for part in (was, is_now))  # type: ignore[return-value]


_MISSING = object()


def _differ(path: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {**was, **now}:
            one, other = was.get(key, _MISSING), now.get(key, _MISSING)
            if one != other:
                return _differ(f"{path}.{key}", one, other)
    if isinstance(was, list) and isinstance(now, list) and sorted(map(str, was)) != sorted(map(str, now)):
        for index in range(max(len(was), len(now))):
            one = was[index] if index < len(was) else _MISSING
            other = now[index] if index < len(now) else _MISSING
            if one != other:
                return _differ(f"{path}[{index}]", one, other)
    return path, was, now


def _moved(recorded: Issued, now: Issued, ahead: Iterable[Issued], issued: Sequence[str]) -> str:
    later = {command.name for command in islice(ahead, AHEAD)}
    if now.name in later and recorded.name in issued:
        return f"`{now.name}` and `{recorded.name}` changed places."
    if now.name in later:
        return f"`{recorded.name}` was removed, or moved behind `{now.name}`."
    if now.name in issued:
        return f"`{now.name}` is repeated once more than before, or `{recorded.name}` was removed after it."
    if now.kind == recorded.kind and now.fingerprint == recorded.fingerprint:
        return f"`{recorded.name}` was renamed to `{now.name}`."
    return f"`{now.name}` was inserted before `{recorded.name}`, or a branch goes the other way now."


def _changing(was: str, now: str) -> str:
    if sorted(was) == sorted(now) and was != now and was.startswith("["):
        return "the order of a set: sort it before it is passed on."
    if _looks_like_uuid(was) and _looks_like_uuid(now):
        return "a random id: use wf.uuid()."
    if _looks_like_time(was) and _looks_like_time(now):
        return "a clock was read: use wf.now()."
    if _is_float(was) and _is_float(now):
        return "a random number or a measured time: use wf.random() or wf.side_effect(…)."
    return "the code that makes this argument changed, or reads something that changed."


def _looks_like_uuid(text: str) -> bool:
    digits = text.strip('"').replace("-", "")
    return len(digits) == 32 and all(digit in "0123456789abcdefABCDEF" for digit in digits)


def _looks_like_time(text: str) -> bool:
    bare = text.strip('"')
    stamped = len(bare) >= 16 and bare[4:5] == "-" and bare[10:11] in ("T", " ")
    return stamped or (_is_number(text) and 1e9 <= abs(float(text)) < 1e19)


def _is_float(text: str) -> bool:
    return _is_number(text) and "." in text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
