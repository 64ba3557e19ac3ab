"""The chaos monkey's plan: the same for a seed, every kind of process hit, always before the end."""

from __future__ import annotations

from stepmesh_cli.demo.kills import EARLIEST, LATEST, plan


def test_a_seed_has_one_plan_and_seeds_differ() -> None:
    assert plan(5) == plan(5)
    assert len({plan(seed) for seed in range(50)}) == 50


def test_every_plan_hits_worker_orchestrator_and_broker_and_some_more() -> None:
    for seed in range(300):
        kills = plan(seed)
        assert {"worker", "orchestrator", "broker"} <= {kill.target for kill in kills}
        assert 4 <= len(kills) <= 6


def test_kills_come_in_order_of_progress_and_inside_the_run() -> None:
    for seed in range(300):
        places = [kill.at for kill in plan(seed)]
        assert places == sorted(places)
        assert places[0] >= EARLIEST
        assert places[-1] <= LATEST
        assert all(0 <= kill.pick < 1 for kill in plan(seed))


def test_the_rare_kinds_occur() -> None:
    targets = [kill.target for seed in range(20) for kill in plan(seed)]
    assert {"all", "wipe"} <= set(targets)
