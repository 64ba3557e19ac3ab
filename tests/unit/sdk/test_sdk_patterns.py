"""Component paths with parameters: which of several a path leads to, and what the component sees."""

from __future__ import annotations

import pytest

from stepmesh import Context, Worker
from stepmesh.patterns import Pattern


@pytest.mark.parametrize(
    ("pattern", "path", "params"),
    [
        ("/a/{name}", "/a/x", {"name": "x"}),
        ("/a/{name}", "/a/x/y", None),
        ("/a/{name}", "/a", None),
        ("/a/{name}", "/b/x", None),
        ("/{x}/to/{y}", "/1/to/2", {"x": "1", "y": "2"}),
        ("/files/{*rest}", "/files/a/b.txt", {"rest": "a/b.txt"}),
        ("/files/{*rest}", "/files", None),
    ],
)
def test_what_a_pattern_matches(pattern: str, path: str, params: dict[str, str] | None) -> None:
    assert Pattern(pattern).match(path) == params


async def test_a_component_sees_the_parameters_of_its_own_path(shard, running, task) -> None:
    worker = Worker("cpu")

    @worker.component(path="/{*rest}")
    async def anything(context: Context) -> str:
        return f"rest {context.path_params['rest']}"

    @worker.component(path="/models/{name}/run")
    async def run(context: Context) -> str:
        return f"model {context.path_params['name']}"

    @worker.component(path="/models/own/run")
    def own(context: Context) -> str:
        return f"own {dict(context.path_params)}"

    async with running(worker):
        await shard.send(task("/models/big/run", step=0), task("/models/own/run", step=1), task("/models/big", step=2))
        results = await shard.until_results(3)
    found = {result.step: result.output for result in results}
    assert found == {0: b'"model big"', 1: b'"own {}"', 2: b'"rest models/big"'}
