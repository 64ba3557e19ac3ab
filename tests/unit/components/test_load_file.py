"""What /load_file reads, and above all what it does not."""

import os
from pathlib import Path
from typing import Any

import pytest

from stepmesh import ComponentError, ErrorCode
from stepmesh.testing import call
from stepmesh_components.load_file import FileLoader


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "open"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.json").write_text('{ "b": 123456789012345678901234567890,\n "a": 1.0 }')
    (folder / "sub" / "b.yaml").write_text("day: 2024-01-01\nlist: [1, two]\n")
    (folder / "c.txt").write_text("☀\n")
    (tmp_path / "secret.txt").write_text("secret")
    return folder


async def load(root: Path | list[Path], path: str, max_bytes: int = 1000, **more: Any) -> Any:
    roots = root if isinstance(root, list) else [root]
    return await call(FileLoader(roots, max_bytes).load_file, {"path": path, **more})


async def refused(root: Path | list[Path], path: str, **more: Any) -> str:
    with pytest.raises(ComponentError) as raised:
        await load(root, path, **more)
    assert raised.value.code is ErrorCode.INVALID_INPUT
    assert "secret" not in str(raised.value).replace("secret.txt", "")
    return str(raised.value)


async def test_json_keeps_digits_and_order(root: Path) -> None:
    told = await load(root, "a.json")
    assert list(told["data"].items()) == [("b", 123456789012345678901234567890), ("a", 1.0)]
    assert told["metadata"] == {"resolved_path": str(root / "a.json"), "size_bytes": 50, "format": "json"}


async def test_yaml_dates_are_text(root: Path) -> None:
    told = await load(root, "sub/b.yaml")
    assert told["data"] == {"day": "2024-01-01", "list": [1, "two"]}
    assert told["metadata"]["format"] == "yaml"


async def test_text_and_a_format_that_overrides_the_suffix(root: Path) -> None:
    assert (await load(root, "c.txt"))["data"] == "☀\n"
    assert (await load(root, "a.json", format="text"))["data"].startswith("{ ")
    assert (await load(root, "a.json", format="yaml"))["data"]["a"] == 1.0


async def test_absolute_path_inside_and_dots_that_stay_inside(root: Path) -> None:
    assert (await load(root, str(root / "c.txt")))["data"] == "☀\n"
    assert (await load(root, "sub/../c.txt"))["metadata"]["resolved_path"] == str(root / "c.txt")


async def test_link_that_stays_inside(root: Path) -> None:
    (root / "link").symlink_to(root / "sub")
    assert (await load(root, "link/b.yaml"))["metadata"]["resolved_path"] == str(root / "sub" / "b.yaml")


@pytest.mark.parametrize("path", ["../secret.txt", "sub/../../secret.txt", "/etc/passwd", "/", "..", "//etc/passwd"])
async def test_outside_is_refused(root: Path, path: str) -> None:
    assert "outside" in await refused(root, path)


async def test_links_that_leave_are_refused(root: Path) -> None:
    (root / "file").symlink_to(root.parent / "secret.txt")
    (root / "folder").symlink_to(root.parent)
    assert "outside" in await refused(root, "file")
    assert "outside" in await refused(root, "folder/secret.txt")


async def test_a_folder_beside_with_the_same_beginning_is_outside(root: Path) -> None:
    beside = root.parent / "open-not"
    beside.mkdir()
    (beside / "x.txt").write_text("x")
    assert "outside" in await refused(root, "../open-not/x.txt")


async def test_a_link_swapped_in_after_the_check_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "late").symlink_to(root.parent / "secret.txt")
    (root / "latedir").symlink_to(root.parent)
    monkeypatch.setattr(os.path, "realpath", os.path.abspath)  # as if the links were not there yet when the path was resolved
    assert "cannot be read" in await refused(root, "late")
    assert "cannot be read" in await refused(root, "latedir/secret.txt")


@pytest.mark.parametrize(
    ("path", "said"), [("", "empty"), ("a\0b", "NUL"), ("nowhere.json", "No such file"), ("sub", "not a regular file")]
)
async def test_not_files(root: Path, path: str, said: str) -> None:
    assert said in await refused(root, path)


async def test_root_itself_and_a_pipe(root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert "not a regular file" in await refused(root, "pipe")
    assert "not a regular file" in await refused(root, ".")


async def test_no_roots() -> None:
    assert "configure" in await refused([], "a.json")


async def test_several_roots_first_that_has_it(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "only.txt").write_text("here")
    assert (await load([root, other], "only.txt"))["data"] == "here"
    assert (await load([root, other], "c.txt"))["data"] == "☀\n"


async def test_size_limit_one_under_and_one_over(root: Path) -> None:
    (root / "at.txt").write_text("x" * 100)
    (root / "over.txt").write_text("x" * 101)
    assert len((await load(root, "at.txt", max_bytes=100))["data"]) == 100
    assert "101 bytes" in await refused(root, "over.txt", max_bytes=100)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("bad.json", b"{", "not JSON"),
        ("nan.json", b"[NaN]", "not JSON"),
        ("bytes.txt", b"\xff", "not UTF-8"),
        ("bytes.json", b'"\xff"', "not JSON"),
        ("bad.yaml", b"a: [", "not YAML"),
        ("key.yaml", b"1: a", "not text"),
        ("inf.yaml", b"a: .inf", "not a JSON value"),
        ("tag.yaml", b"a: !!python/object:os.system x", "not YAML"),
        ("set.yaml", b"a: !!set {x}", "not a JSON value"),
        ("loop.yaml", b"&a [*a]", "more than"),
    ],
)
async def test_content_that_does_not_parse(root: Path, name: str, content: bytes, said: str) -> None:
    (root / name).write_bytes(content)
    assert said in await refused(root, name)


async def test_alias_bomb_is_refused(root: Path) -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (root / "bomb.yaml").write_text("\n".join(lines))
    assert "aliases" in await refused(root, "bomb.yaml")


async def test_byte_order_mark_is_dropped(root: Path) -> None:
    (root / "bom.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert (await load(root, "bom.json"))["data"] == [1]
