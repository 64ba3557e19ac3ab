"""MODULE[:ATTR] → a worker, or an error that says what is there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepmesh import Worker
from stepmesh_broker.errors import BrokerError
from stepmesh_cli.errors import BadWorkerModule, CommandError
from stepmesh_cli.worker import adapt, load_worker

ONE = "from stepmesh import Worker\nworker = Worker(pool='cpu')\n"


@pytest.fixture(autouse=True)
def _own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("steps"):
            del sys.modules[name]


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def test_the_only_worker_of_a_module_in_the_working_folder() -> None:
    write("steps_a.py", ONE)
    assert load_worker("steps_a").pool == "cpu"


def test_a_file_by_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    (folder / "steps_neighbour.py").write_text("POOL = 'gpu'\n")
    (folder / "steps_b.py").write_text("from stepmesh import Worker\nfrom steps_neighbour import POOL\nw = Worker(pool=POOL)\n")
    assert load_worker("sub/steps_b.py").pool == "gpu"
    assert load_worker("sub/steps_b.py:w").pool == "gpu"


def test_two_names_of_one_worker_are_one() -> None:
    write("steps_c.py", ONE + "alias = worker\n")
    assert load_worker("steps_c").pool == "cpu"


def test_of_two_workers_one_must_be_named() -> None:
    write("steps_d.py", ONE + "second = Worker(pool='gpu')\n")
    with pytest.raises(BadWorkerModule, match="has 2 workers, wanted one") as caught:
        load_worker("steps_d")
    assert caught.value.hint == "name one: steps_d:worker"
    assert load_worker("steps_d:second").pool == "gpu"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("steps_e", "", "has 0 workers"),
        ("steps_f:nope", ONE, "steps_f:nope is not a stepmesh.Worker"),
        ("steps_g:x", "x = 1", "steps_g:x is not a stepmesh.Worker"),
        ("steps_h", "1/0", "cannot import steps_h: ZeroDivisionError"),
        ("steps_i", "def", "cannot import steps_i: SyntaxError"),
        ("steps_j", "import steps_nowhere", "No module named 'steps_nowhere'"),
    ],
)
def test_what_is_no_worker_is_refused(name: str, text: str, told: str) -> None:
    write(f"{name.partition(':')[0]}.py", text)
    with pytest.raises(BadWorkerModule, match=told) as caught:
        load_worker(name)
    assert caught.value.code == "SM-0106"
    assert caught.value.hint


def test_the_place_of_an_import_error_is_told(tmp_path: Path) -> None:
    write("steps_k.py", "x = 1\nraise RuntimeError('no')\n")
    with pytest.raises(BadWorkerModule) as caught:
        load_worker("steps_k.py")
    assert caught.value.hint.endswith("steps_k.py:2")


@pytest.mark.parametrize("name", ["steps_nowhere", "steps_nowhere.py", "nowhere.sub:worker"])
def test_a_module_that_is_not_there(name: str) -> None:
    with pytest.raises(BadWorkerModule, match="nowhere"):
        load_worker(name)


def test_the_command_line_wins() -> None:
    worker = Worker(pool="cpu")
    adapt(worker, "gpu", "team", 3, 1.5)
    assert (worker.pool, worker.namespace, worker.concurrency, worker.drain_grace_s) == ("gpu", "team", 3, 1.5)
    adapt(worker, None, None, None, None)
    assert worker.pool == "gpu"


def test_bad_settings_are_refused() -> None:
    worker = Worker(pool="cpu")
    with pytest.raises(CommandError, match="--concurrency 0"):
        adapt(worker, None, None, 0, None)
    with pytest.raises(CommandError, match="--grace -1"):
        adapt(worker, None, None, None, -1)
    with pytest.raises(BrokerError, match="is not a name"):
        adapt(worker, "a b", None, None, None)
