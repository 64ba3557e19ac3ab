"""Ids of what a body asks for: unique, whatever the names are, and the same as ever for names that do not look like a count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh import App, wf
from stepmesh.durable.scopes import Scope
from stepmesh.durable.testing import env
from stepmesh_broker.protocol.histories import Issued

NAMES = st.lists(st.sampled_from(["#1", "#2", "#2", "#02", "#", "\n"]), max_size=2).map(lambda parts: "".join(["a", *parts]))


@given(st.lists(NAMES, max_size=12))
def test_no_two_commands_have_one_id(names: list[str]):
    scope = Scope()
    ids = [scope.name(name) for name in names]
    assert len({*ids}) == len(ids)


@given(st.lists(st.sampled_from(["charge", "ship", "a#b", "#", "a#2b", "1"]), max_size=12))
def test_names_without_a_count_have_the_ids_that_they_always_had(names: list[str]):
    scope = Scope("r.1")
    seen = list[str]()
    for name in names:
        seen.append(name)
        count = seen.count(name)
        assert scope.name(name) == f"r.1/{name}" + (f"#{count}" if count > 1 else "")


@pytest.mark.asyncio
@pytest.mark.parametrize("names", [["a", "a", "a#2"], ["a", "a#2", "a"], ["a#2", "a", "a"]])
async def test_steps_whose_names_look_like_counts_have_results_of_their_own(names: list[str]):
    app = App("shop")

    @app.workflow
    async def body() -> list[int]:
        return [await wf.run(name, lambda number: number, place) for place, name in enumerate(names)]

    async with env(body) as t:
        run = await t.start(body)
        assert await run.result() == [0, 1, 2]
        t.crash_at_every_record(run)
    assert {record.id for record in run.records if isinstance(record, Issued)} == {"r/a", "r/a#2", "r/a#2#1"}
