"""What a shard takes in, answers and counts: records without rules."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from stepmesh_broker.protocol.functions import FunctionTurned
from stepmesh_broker.protocol.letters import Letters
from stepmesh_broker.protocol.messages import (
    Accepted,
    AskUpdate,
    Cancel,
    EventKept,
    Pause,
    Refused,
    Results,
    SendEvent,
    Submit,
    UpdateTaken,
    Wake,
)
from stepmesh_orchestrator.core.commands import CancelRun, Command, KeepEvent, PauseRun, UpdateFunction, WakeSteps
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow

MAX_MESSAGES = 512
"""Inbox messages of one turn at most, so that a flood does not make one endless turn."""
Answer = Accepted | Refused | FunctionTurned | EventKept | UpdateTaken
Message = Results | Submit | Cancel | Letters


@dataclass(slots=True)
class Counters:
    """What a shard has done since it started."""

    turns: int = 0
    events: int = 0
    messages: int = 0
    journal_s: float = 0.0
    malformed: int = 0
    quarantined: int = 0


@dataclass(slots=True)
class Inputs:
    """What waits for the next turn."""

    messages: deque[tuple[int, Message | None, CompiledFlow | None]] = field(default_factory=deque)
    commands: deque[tuple[Command, asyncio.Future[Answer] | None]] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    room: asyncio.Event = field(default_factory=asyncio.Event)


def of_live_run(message: Cancel | Pause | Wake) -> CancelRun | PauseRun | WakeSteps:
    """What a client asks of a run, as a command."""
    if isinstance(message, Cancel):
        return CancelRun(message.run, message.reason, message.force)
    if isinstance(message, Pause):
        return PauseRun(message.run, message.reason)
    return WakeSteps(message.run, message.tasks)


def of_outside(asked: SendEvent | AskUpdate) -> KeepEvent | UpdateFunction:
    """What somebody outside tells, as a command."""
    return KeepEvent(asked) if isinstance(asked, SendEvent) else UpdateFunction(asked)
