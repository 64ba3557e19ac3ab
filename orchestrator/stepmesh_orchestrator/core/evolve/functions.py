"""Appliers of what happens to a durable function: its history grows, its worker lets go of it."""

from __future__ import annotations

from stepmesh_orchestrator.core import function_events
from stepmesh_orchestrator.core.evolve.steps import leave
from stepmesh_orchestrator.core.function_reuse import begun, unwound
from stepmesh_orchestrator.core.functions import Function, begun_anew
from stepmesh_orchestrator.core.state import PARKED, Item, State

MOST_UNFIT = 20
"""Versions of which it is remembered that they cannot go on."""


def history_grew(state: State, event: function_events.HistoryGrew, at_ms: int) -> None:
    """What is open follows. A worker that brings something has not been in vain: the transport budget is whole again."""
    item = state.runs[event.run].items[event.item]
    function = _function(item, event.step)
    for record in event.records:
        function.append(record)
    for id in event.abandoned:
        function.close(id)
    if event.turn:
        function.driver, function.turn = event.driver, event.turn
        function.taken = False
        function.blocked, function.blocks, function.unfit = "", 0, []
        function.version = event.version or function.version
        if item.waits is not None and event.step in item.waits:
            item.waits[event.step].transport_used = 0
    item.positions[event.step] = state.at


def function_idle(state: State, event: function_events.FunctionIdle, at_ms: int) -> None:
    """The slot is free; the next activation has its number."""
    item = leave(state, event.run, event.item, event.step)
    _rest(item, event.step)
    function = _function(item, event.step)
    function.seen = 0 if event.leaving else len(function.records)  # all of it is news: it goes on whatever happens
    function.blocked, function.due_ms = event.blocked, event.due_ms
    function.blocks = function.blocks + 1 if event.blocked else 0
    if event.version and event.version not in function.unfit:
        function.unfit = [*function.unfit[1 - MOST_UNFIT :], event.version]


def function_continued(state: State, event: function_events.FunctionContinued, at_ms: int) -> None:
    """Nothing of what it was is left but the number of its next activation."""
    item = leave(state, event.run, event.item, event.step)
    _rest(item, event.step)
    item.functions = {**(item.functions or {}), event.step: begun_anew(_function(item, event.step), event.input)}


def functions_seeded(state: State, event: function_events.FunctionsSeeded, at_ms: int) -> None:
    """They wait for their items to start."""
    run = state.runs[event.run]
    run.pasts = {}
    for seed in event.seeds:
        run.pasts.setdefault(seed.item, []).append(seed)


def function_took_over(state: State, event: function_events.FunctionTookOver, at_ms: int) -> None:
    """Its history begins with another run's. Its first task is as one that comes again: the worker asks what is there."""
    item = state.runs[event.run].items[event.item]
    pasts = item.pasts or {}
    seed = pasts.pop(event.step)
    item.pasts = pasts or None
    item.functions = {**(item.functions or {}), event.step: begun(seed, at_ms, anew=event.anew)}
    item.wait(event.step).attempt += 1
    item.positions[event.step] = state.at


def function_unwound(state: State, event: function_events.FunctionUnwound, at_ms: int) -> None:
    """Only results are left of what was taken over."""
    item = leave(state, event.run, event.item, event.step)
    _rest(item, event.step)
    item.functions = {**(item.functions or {}), event.step: unwound(_function(item, event.step), at_ms)}


def function_resumed(state: State, event: function_events.FunctionResumed, at_ms: int) -> None:
    """What is blocked is due. With another version all of the history is news."""
    item = state.runs[event.run].items[event.item]
    function = _function(item, event.step)
    function.unfit, function.blocks = [], 0
    if function.blocked:
        function.due_ms = at_ms
    if event.version:
        function.version, function.former, function.seen = event.version, function.driver, 0
        function.leaves = item.attempt(event.step)
    item.positions[event.step] = state.at


def _rest(item: Item, step: int) -> None:
    item.phases[step] = PARKED
    wait = item.wait(step)
    wait.attempt += 1
    wait.due_ms = 0  # a retry is no longer what it waits for


def _function(item: Item, step: int) -> Function:
    if item.functions is None:
        item.functions = {}
    return item.functions.setdefault(step, Function())
