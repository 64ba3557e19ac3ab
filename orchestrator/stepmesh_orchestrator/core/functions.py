"""A durable function as a step carries it: its history, and what of it is still open.

Invariant: `open` and `retries` follow from `records` and from what turns abandoned; they are kept beside them so that no decision reads a
whole history. Knows nothing of runs.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from stepmesh_broker.protocol.histories import NOTES, Began, Issued, Kind, Record, Settled, Tried, UpdateAsked, encode_records
from stepmesh_broker.protocol.messages import Task
from stepmesh_orchestrator.core.seeds import Kept

MAX_CARRIED_BYTES = 256 * 1024
"""Records that are larger do not travel with the task: the worker asks for them, page by page."""
SHORT_RECORDS, SHORT_BYTES = 100, 16 * 1024
"""Of a history that always travels whole."""


MAX_HEARD = 1_000
"""Updates of a function that are known by their ids after it began anew: one that is asked for again is not done twice."""


class _Retry(msgspec.Struct):
    max: int = 1
    initial_ms: int = 1_000
    max_ms: int = 60_000


class _Options(msgspec.Struct):
    retry: _Retry | None = None
    timeout_ms: int = 0


_options = msgspec.json.Decoder(_Options)
_due = msgspec.json.Decoder(dict[str, int])


class FunctionImage(msgspec.Struct, array_like=True, gc=False):
    """`open`: where in `records` the commands without a result stand, by id, oldest first. `retries`: when (ms) the next attempt of a local
    step is due. `seen`: records that the worker had when it let go. `driver` and `turn`: who took it further last, and the number of its
    newest turn. `blocked`: why the newest code cannot go on with this history, tried again at `due_ms`; `blocks`: how often in a row."""

    records: list[Record] = []
    open: dict[str, int] = {}
    retries: dict[str, int] = {}
    seen: int = 0
    driver: int = 0
    turn: int = 0
    blocked: str = ""
    due_ms: int = 0
    blocks: int = 0
    input: bytes | None = None  # with which it began anew; None: the step's


class TakenFunctionImage(FunctionImage, array_like=True, gc=False):
    """`kept`: results of another run, by command, that are not asked for yet. `taken`: the history was taken over, and no turn came
    since. Written only then, read always."""

    kept: dict[str, Kept] = {}
    taken: bool = False


class Function(TakenFunctionImage, array_like=True, gc=False):
    """`heard`: ids of updates that it got before it began anew, the newest ones. `attributes`, `tags`: as the body set them last, JSON.
    `version`: of the code that issued last, or that somebody chose since, where that is not what the first record says; `unfit`: versions
    that could not go on since then. When it was chosen, `former` had taken the history further last, and the activation `leaves` was
    under way, or next."""

    heard: list[str] = []
    attributes: dict[str, bytes] = {}
    tags: dict[str, bytes] = {}
    version: str = ""
    unfit: list[str] = []
    former: int = 0
    leaves: int = 0

    def pinned(self) -> str:
        """The version of the code that it belongs to; "" when that is not known."""
        began = None if self.version else self.began()
        return self.version if began is None else began.version

    def append(self, record: Record) -> None:
        """The history goes on."""
        self.records.append(record)
        if isinstance(record, Issued):
            if record.kind not in NOTES:
                self.open[record.id] = len(self.records) - 1
            elif record.kind is Kind.ATTRIBUTE:
                self.attributes[record.name] = record.arguments
            elif record.kind is Kind.TAG:
                self._tag(record)
        elif isinstance(record, Settled):
            self.close(record.id)
        elif isinstance(record, Tried):
            self.retries[record.id] = record.due_ms

    def _tag(self, note: Issued) -> None:
        if note.arguments == b"null":
            self.tags.pop(note.name, None)
        else:
            self.tags[note.name] = note.arguments

    def began(self) -> Began | None:
        """The body's first word. What it was asked before that stands before it."""
        return next((record for record in self.records if isinstance(record, Began)), None)

    def asked(self, id: str) -> Issued | None:
        """A command without a result."""
        place = self.open.get(id)
        return None if place is None else self._command(place)

    def commands(self) -> list[Issued]:
        """Those without a result, oldest first."""
        return [self._command(place) for place in self.open.values()]

    def at(self, place: int) -> Issued | None:
        """The command there, whether or not it has a result."""
        record = self.records[place] if place < len(self.records) else None
        return record if isinstance(record, Issued) else None

    def _command(self, place: int) -> Issued:
        record = self.records[place]
        assert isinstance(record, Issued), "`open` holds places of commands"
        return record

    def close(self, id: str) -> None:
        """Nobody waits for what comes of a command any more."""
        self.open.pop(id, None)
        self.retries.pop(id, None)
        if self.kept:
            self.kept.pop(id, None)

    def dues(self) -> list[int]:
        """When it is to be looked at because of the time, ms."""
        return [self.due_ms] if self.blocked else [*self.retries.values(), *(due for due, _ in self.timers())]

    def awaits_events(self) -> bool:
        """Whether it waits for events from outside, which it asks for again now and then."""
        return any(command.kind is Kind.EVENT for command in self.commands())

    def timers(self) -> list[tuple[int, Issued]]:
        """Those that are waited for, with when they are due (ms), earliest first."""
        return sorted(((due_ms(command), command) for command in self.commands() if command.kind is Kind.TIMER), key=lambda due: due[0])

    def carried_by(self, task: Task) -> Task:
        """The task with what it tells of the history: all of a short one, so that any worker goes on at once; of a long one what came since
        a worker let go, which may have the body still. Another one asks for the rest."""
        driver = 0 if self.driver == self.former else self.driver  # a body of the code that it was taken from is of no use
        task = replace(task, records=len(self.records), driver=driver, seen=self.seen if driver else 0)
        if self.version and not task.seen:
            return task
        if not driver:
            return replace(task, history=_carried(self.records))
        is_short = len(self.records) <= SHORT_RECORDS and not self.version  # whose code it belongs to is told who asks
        whole = _carried(self.records, SHORT_BYTES) if is_short else b""
        return replace(task, history=whole) if whole else replace(task, news=_carried(self.records[self.seen :]))


class Unheard(msgspec.Struct, eq=False):
    """Something of the function `of` is settled of which its body has not heard; it has when it heard `through` records, 0 = it has.
    `late`: commands whose events came after that, oldest first; `rounds`: how often the event of each came so."""

    of: Function
    through: int
    late: dict[str, None]
    rounds: dict[str, int]


def _carried(records: list[Record], limit: int = MAX_CARRIED_BYTES) -> bytes:
    encoded = encode_records(records) if records else b""
    return encoded if len(encoded) <= limit else b""


def unanswered(function: Function, heard: int) -> tuple[list[UpdateAsked], list[UpdateAsked]]:
    """Updates that have no reply, of a body that got the first `heard` records: those that it got, and those that it did not."""
    replied = {record.name for record in function.records if isinstance(record, Issued) and record.kind is Kind.REPLY}
    asked = ((at, one) for at, one in enumerate(function.records) if isinstance(one, UpdateAsked) and one.id not in replied)
    found: tuple[list[UpdateAsked], list[UpdateAsked]] = ([], [])
    for at, one in asked:
        found[at >= heard].append(one)
    return found


def begun_anew(function: Function, value: bytes) -> Function:
    """The one that comes after it, with this input. What it showed of itself stays."""
    return Function(input=value, heard=updates_of(function), attributes=function.attributes, tags=function.tags)


def updates_of(function: Function) -> list[str]:
    """Ids of those that it was asked, the newest ones, now and before it began anew."""
    return [*function.heard, *(one.id for one in function.records if isinstance(one, UpdateAsked))][-MAX_HEARD:]


def image_of(function: Function) -> FunctionImage:
    """As it is kept: without what few have."""
    if function.heard or function.attributes or function.tags or function.version or function.unfit:
        return function
    form = TakenFunctionImage if function.kept or function.taken else FunctionImage
    return form(*(getattr(function, name) for name in form.__struct_fields__))


def call_document(command: Issued) -> bytes:
    """The flow of one step that a call is, with the retries and the time limit that its options ask for. Equal calls have equal flows."""
    step: dict[str, object] = {"id": "call", "component": command.name, "input": {"$input": "$"}}
    options = _options.decode(command.options) if command.options else _Options()
    if options.timeout_ms:
        step["timeout"] = f"{options.timeout_ms}ms"
    if options.retry is not None:
        backoff = {"initial": f"{options.retry.initial_ms}ms", "max": f"{max(options.retry.initial_ms, options.retry.max_ms)}ms"}
        step["onError"] = {"action": "retry", "maxRetries": max(0, options.retry.max - 1), "backoff": backoff}
    return msgspec.json.encode({"steps": [step], "output": {"$step": "call"}})


def due_ms(timer: Issued) -> int:
    """When a timer is due, ms since 1970; 0 when what the worker said cannot be read: at once."""
    try:
        return _due.decode(timer.arguments)["due_ms"]
    except (msgspec.MsgspecError, KeyError):
        return 0
