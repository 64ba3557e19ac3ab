"""One random history: runs through a faulty world, and the comparison with the oracle at its end."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from tests.simulation.driver import World
from tests.simulation.flows import Choices, chance, make_case, pick
from tests.simulation.oracle import RUN_ID, ItemRecord, Oracle
from tests.simulation.script import answer

from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.rows import ItemRow, RunRow
from stepmesh_orchestrator.core.session import EngineSettings

MAX_ACTIONS = 120
_RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_OUTCOMES = (events.StepSucceeded, events.StepFailed, events.StepDefaulted, events.StepSkipped)


def play(world: World) -> None:
    """Make the cases, let things happen, bring all to its end, compare. Raises `AssertionError` for any difference."""
    choices = world.choices
    cancels = chance(choices, 10)
    for _ in range(1 + (choices.below(3) if chance(choices, 20) else 0)):
        world.submit(make_case(choices))
    for _ in range(MAX_ACTIONS):
        if not (world.is_alive or world.turn):
            break
        world.act(cancels=cancels)
    finish_and_compare(world)


def make_world(choices: Choices) -> World:
    """A world with limits that are reached. In every other one ended runs are soon forgotten (then none is submitted again)."""
    window = pick(choices, (10_000, 1, 2))
    remembered, milliseconds = pick(choices, ((100_000, 10**12), (1, 10_000)))
    limits = EngineSettings(
        max_iterations=6,
        item_window=window,
        remember_ended=remembered,
        remember_ended_ms=milliseconds,
        dormant_ms=pick(choices, (0, 0, 1_000)),
        pool_window=pick(choices, (4_000, 0, 1, 2)),
        weights=pick(choices, ({}, {"acme": 2})),
        breaker_after=pick(choices, (10, 1, 2)),
    )
    return World(choices, limits)


def finish_and_compare(world: World) -> None:
    """Bring all to its end; the journal holds each outcome once, and without cancels the results are the oracle's."""
    world.finish()
    check_journal(world)
    if not any(isinstance(event, events.RunCancelled) for event in world.journaled()):
        compare(world)


def check_journal(world: World) -> None:
    """One outcome for each step that was begun, one end for each item and run, attempts that count up from 1."""
    recorded: Counter[Any] = Counter()
    attempts: dict[Any, int] = {}
    for event in world.journaled():
        if isinstance(event, _OUTCOMES):
            recorded[event.run, event.item, event.step] += 1
        elif isinstance(event, events.ItemEnded):
            recorded[event.run, event.item] += 1
        elif isinstance(event, events.RunEnded | events.RunCreated):
            recorded[type(event), event.run] += 1
        elif isinstance(event, events.StepDispatched):
            place = (event.run, event.item, event.step)
            assert event.attempt > attempts.get(place, 0), "an attempt was dispatched twice"
            attempts[place] = event.attempt
        elif isinstance(event, events.WaitOver) and event.position:
            recorded[event.run, event.name, event.key, event.position] += 1
    assert not [what for what, times in recorded.items() if times > 1], "something was recorded twice"
    check_taken(world)
    assert set(world.over) == {event.run for event in world.journaled() if isinstance(event, events.RunCreated)}


def check_taken(world: World) -> None:
    """What a run took was kept at that address, before; an id is kept once while it is remembered."""
    kept: dict[int, tuple[str, str]] = {}
    for frame, payload in enumerate(world.frames, 1):
        for index, event in enumerate(events.decode_turn(payload).events):
            if isinstance(event, events.EventReceived):
                kept[frame * events.PER_FRAME + index] = (event.name, event.key)
            elif isinstance(event, events.WaitOver) and event.position:
                assert kept.get(event.position) == (event.name, event.key), "an event was taken that was not there"


def compare(world: World) -> None:
    """The engine's items, of all runs and sub-runs, are those of the oracle."""
    expected: list[ItemRecord] = []
    results: dict[RunId, list[Any]] = {}
    forked = {row.run for row in world.rows if isinstance(row, RunRow) and row.root in world.operators.forks}
    for run, case in world.runs.items():
        oracle = Oracle(answer, case.stored, max_iterations=world.settings.max_iterations)
        results[run] = [oracle.run(case.flow, value, case.variables or {}) for value in case.inputs]
        if run not in forked:  # those have less to do: their results are compared, not what they did
            expected += oracle.items
    found = [row for row in world.rows if isinstance(row, ItemRow)]
    for run, wanted in results.items():
        got = {row.item: shown(json.loads(row.result)) for row in found if row.run == run}
        model = {index: shown(result) for index, result in enumerate(wanted)}
        assert got == model, f"results of {run}: engine {got}; oracle {model}"
        status = "failed" if any(result["outcome"] == "failed" for result in wanted) else "completed"
        states = [row.status for row in world.rows if isinstance(row, RunRow) and row.run == run]
        assert states[-1] == status
        gated = {"queued"} if {"concurrency", "throttle"} & world.runs[run].flow.keys() else set()
        assert {"running", "paused", *gated} >= set(states[:-1])  # more of them when it was paused, or dormant
        assert len(states) >= 2
    engine = Counter(_engine_item(row) for row in found if row.run not in forked)
    oracle_items = Counter(map(_oracle_item, expected))
    assert engine == oracle_items, f"items differ: engine only {engine - oracle_items}; oracle only {oracle_items - engine}"


def _oracle_item(item: ItemRecord) -> str:
    return shown([item.result, [[step.id, step.status, step.attempts, step.outcome] for step in item.steps]])


def _engine_item(row: ItemRow) -> str:
    steps = []
    for step in row.steps:
        outcome = step.failure if step.status == "failed" else step.output
        steps.append([step.step_id, step.status, step.attempt, None if outcome is None else json.loads(outcome)])
    return shown([json.loads(row.result), steps])


def shown(value: Any) -> str:
    """JSON text in which equal results are equal: key order and digits count, ids of sub-runs and texts of bad input do not."""
    return _RUN_ID.sub(RUN_ID, json.dumps(_neutral(value)))


def _neutral(value: Any) -> Any:
    if isinstance(value, list):
        return [_neutral(element) for element in value]
    if not isinstance(value, dict):
        return value
    if value.get("code") == "INVALID_INPUT" and "message" in value:
        return {**value, "message": "*"}
    return {key: _neutral(member) for key, member in value.items()}


def describe(world: World) -> str:
    """What was run: for the report of a difference."""
    lines = []
    for run, case in world.runs.items():
        documents = "".join(f"\n  stored {name}: {json.dumps(document)}" for name, document in case.stored.items())
        lines.append(
            f"{run}: {json.dumps(case.flow)}\n  inputs {json.dumps(case.inputs)} variables {json.dumps(case.variables)} "
            f"max_concurrency {case.max_concurrency}{documents}"
        )
    return "\n".join([*lines, f"actions: {dict(world.actions)}"])
