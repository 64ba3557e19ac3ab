"""The data folder: one owner, a fixed number of partitions, clear refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stepmesh_cli.data_folder import FACTS, DataFolder, owner_of
from stepmesh_cli.errors import DataFolderInUse, DataFolderUnusable, PartitionsDiffer


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "data")


def test_a_second_owner_is_refused_and_told_who_has_it(folder: DataFolder) -> None:
    folder.own()
    with pytest.raises(DataFolderInUse, match=f"in use by process {os.getpid()}"):
        DataFolder(folder.path).own()
    assert owner_of(folder.path) == str(os.getpid())
    folder.release()


def test_a_released_folder_is_free_again(folder: DataFolder) -> None:
    folder.own()
    folder.release()
    folder.release()
    assert owner_of(folder.path) is None
    second = DataFolder(folder.path)
    second.own()
    assert owner_of(folder.path) == str(os.getpid())
    second.release()


def test_a_folder_that_is_not_there_has_no_owner(tmp_path: Path) -> None:
    assert owner_of(tmp_path / "nowhere") is None


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(DataFolderUnusable, match="cannot be used") as caught:
        DataFolder(tmp_path / "data").own()
    assert caught.value.code == "SM-0103"
    assert "--data" in caught.value.hint


def test_it_is_private(folder: DataFolder) -> None:
    folder.own()
    assert folder.path.stat().st_mode & 0o077 == 0
    folder.release()


@pytest.mark.parametrize(("first", "kept"), [(None, 1), (4, 4)])
def test_partitions_stay_as_the_folder_was_made(folder: DataFolder, first: int | None, kept: int) -> None:
    folder.own()
    assert folder.partitions(first) == kept
    assert folder.partitions(None) == kept
    assert folder.partitions(kept) == kept
    with pytest.raises(PartitionsDiffer, match=f"made with {kept} partitions, not {kept + 1}"):
        folder.partitions(kept + 1)
    folder.release()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"partitions": "many"}', '{"partitions": null}'])
def test_a_damaged_fact_is_named(folder: DataFolder, text: str) -> None:
    folder.own()
    (folder.path / FACTS).write_text(text)
    with pytest.raises(PartitionsDiffer, match=FACTS):
        folder.partitions(None)
    folder.release()


def test_the_fact_is_plain_json(folder: DataFolder) -> None:
    folder.own()
    folder.partitions(8)
    assert json.loads((folder.path / FACTS).read_text()) == {"partitions": 8}
    folder.release()
