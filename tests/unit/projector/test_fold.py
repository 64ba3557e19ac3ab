"""A journal read from outside gives the read model that its owner makes, wherever the reading was interrupted."""

from __future__ import annotations

import pytest
from tests.simulation.virtual_loop import LoopTimeClock
from tests.unit.projector.counting import Model, numbers_of
from tests.unit.projector.recorded import PARTITION, flows_of, read_model, recorded

from stepmesh_orchestrator.core.flow.routing import default_router
from stepmesh_orchestrator.core.rows import ItemRow, Row, RunGone, RunRow
from stepmesh_orchestrator.ports import Frame
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.store.memory import MemoryStore
from stepmesh_projector.fold import Fold
from stepmesh_projector.usage import Usage
from stepmesh_projector.windows import Place, Window, Windows, decode_window

SIZE_MS = 2_000


class Shelf:
    """Keeps windows as bytes, as a table would."""

    def __init__(self) -> None:
        self.kept: dict[Place, bytes] = {}

    def windows(self) -> Windows:
        return Windows(SIZE_MS, self.kept.get)

    def put(self, fold: Fold) -> None:
        self.kept.update(fold.windows.changed(fold.at_ms))

    def read(self) -> dict[Place, Window]:
        return {place: decode_window(data) for place, data in self.kept.items()}


async def write(store: MemoryStore, sequence: int, rows: list[Row]) -> None:
    runs = [row for row in rows if isinstance(row, RunRow)]
    items = [row for row in rows if isinstance(row, ItemRow)]
    await store.project(PARTITION, sequence, runs, items, [row for row in rows if isinstance(row, RunGone)])


async def follow(fold: Fold, frames: list[Frame], store: MemoryStore) -> None:
    for frame in frames:
        await write(store, frame.sequence, await fold.take(frame.sequence, frame.payload))


async def test_the_read_model_is_the_one_that_the_owner_of_the_partition_made() -> None:
    frames, theirs = recorded()
    ours = await flows_of(theirs)
    fold = Fold.begin(PARTITION, FlowRegistry(ours, LoopTimeClock()), default_router(), Shelf().windows())
    await follow(fold, frames, ours)
    assert await read_model(ours) == await read_model(theirs)
    assert len(await read_model(ours)) == 10
    assert fold.sequence == len(frames)


async def test_windows_are_those_of_the_obvious_model() -> None:
    frames, theirs = recorded()
    shelf = Shelf()
    fold = Fold.begin(PARTITION, FlowRegistry(theirs, LoopTimeClock()), default_router(), shelf.windows())
    await follow(fold, frames, await flows_of(theirs))
    shelf.put(fold)
    model = await Model.of(frames, theirs, SIZE_MS)
    assert numbers_of(shelf.read()) == model.numbers()
    assert len({place.start_ms for place in shelf.kept}) > 3
    assert {place.label.kind for place in shelf.kept} == {"pool", "flow", "namespace"}
    for kind in ("pool", "flow", "namespace"):
        used = Usage()
        for place, window in shelf.read().items():
            if place.label.kind == kind:
                used.add(window.usage)
        assert used == Usage(14, 10, 26, {"USD": 200_000_000})


async def test_quantiles_are_those_of_the_obvious_model() -> None:
    frames, theirs = recorded()
    shelf = Shelf()
    fold = Fold.begin(PARTITION, FlowRegistry(theirs, LoopTimeClock()), default_router(), shelf.windows())
    await follow(fold, frames, await flows_of(theirs))
    shelf.put(fold)
    latencies = sorted((await Model.of(frames, theirs, SIZE_MS)).latencies["cpu"])
    total = Window()
    for place, window in shelf.read().items():
        if place.label.kind == "pool" and place.label.name == "cpu":
            total.add(window)
    assert total.latency.count == len(latencies)
    for quantile in (0.5, 0.9, 1.0):
        wanted = latencies[round(quantile * (len(latencies) - 1))]
        assert total.latency.get_quantile_value(quantile) == pytest.approx(wanted, rel=0.05, abs=1)


@pytest.mark.parametrize("behind", [0, 1, 7])
async def test_an_image_and_the_frames_after_it_give_what_all_frames_give(behind: int) -> None:
    """`behind`: frames that were counted and projected after the image was made, before the process died."""
    frames, theirs = recorded()
    for cut in range(0, len(frames) - behind, 3):
        ours, shelf = await flows_of(theirs), Shelf()
        registry = FlowRegistry(ours, LoopTimeClock())
        fold = Fold.begin(PARTITION, registry, default_router(), shelf.windows())
        await follow(fold, frames[:cut], ours)
        shelf.put(fold)
        image = fold.image()
        await follow(fold, frames[cut : cut + behind], ours)
        shelf.put(fold)
        fold = await Fold.restore(image, registry, default_router(), shelf.windows())
        assert fold.sequence == cut
        await follow(fold, frames[cut:], ours)
        shelf.put(fold)
        assert await read_model(ours) == await read_model(theirs)
        assert numbers_of(shelf.read()) == (await Model.of(frames, theirs, SIZE_MS)).numbers()


async def test_an_image_of_a_newer_release_is_refused() -> None:
    fold = Fold.begin(PARTITION, FlowRegistry(MemoryStore(), LoopTimeClock()), default_router(), Shelf().windows())
    image = bytearray(fold.image())
    assert image[1] == 1  # the format, first field of an array
    image[1] = 2
    with pytest.raises(ValueError, match="image of format 2"):
        await Fold.restore(bytes(image), FlowRegistry(MemoryStore(), LoopTimeClock()), default_router(), Shelf().windows())
