"""Route files: read, watched, and kept where they are broken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from nodeproxy.core.routing.objects import Key
from nodeproxy.routes import RouteFiles, Routes, read_path

PATIENCE = 20.0
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: web}}]
  rules: [{{backendRefs: [{{name: {to}, port: 80}}]}}]
"""


def text(*names: str, to: str = "v1") -> str:
    return "---\n".join(ROUTE.format(name=name, to=to) for name in names)


class Seen:
    """What was published, and a way to wait for it."""

    def __init__(self) -> None:
        self.all: list[Routes] = []
        self._changed = trio.Event()

    def __call__(self, routes: Routes) -> None:
        self.all.append(routes)
        self._changed.set()
        self._changed = trio.Event()

    @property
    def names(self) -> list[str]:
        return sorted(key.name for key in self.all[-1].objects.by_key)

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE):
            while not condition():
                await self._changed.wait()


@asynccontextmanager
async def watching(path: Path) -> AsyncIterator[tuple[RouteFiles, Seen]]:
    seen = Seen()
    files = RouteFiles(str(path), seen)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            await nursery.start(lambda *, task_status: files.run(task_status=task_status))
        yield files, seen
        nursery.cancel_scope.cancel()


async def test_a_folder_follows_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text("a"))
    async with watching(tmp_path) as (files, seen):
        assert seen.names == ["a"]
        assert seen.all[0].generation == 1
        (tmp_path / "b.yaml").write_text(text("b", "c"))
        await seen.until(lambda: seen.names == ["a", "b", "c"])
        assert files.routes.files == 2
        (tmp_path / "a.yaml").unlink()
        await seen.until(lambda: seen.names == ["b", "c"])
        kept = seen.all[-1].objects.by_key[Key("HTTPRoute", "shop", "b")]
        (tmp_path / "b.yaml").write_text(text("b", "d"))
        await seen.until(lambda: seen.names == ["b", "d"])
        # What is as before is the very same object.
        assert seen.all[-1].objects.by_key[Key("HTTPRoute", "shop", "b")] is kept
        assert [r.generation for r in seen.all] == list(range(1, len(seen.all) + 1))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        pytest.param("kind: [", "", id="no-yaml"),
        pytest.param(text("a").replace("port: 80", "prot: 80"), "unknown key 'prot'", id="a-typo"),
        pytest.param(
            text("b") + "---\n" + text("a").replace("HTTPRoute", "HTTPRouter"),
            "'HTTPRouter' is not read here; did you mean 'HTTPRoute'?",
            id="one-of-two",
        ),
        pytest.param("", "the file is empty", id="emptied-in-place"),
    ],
)
async def test_a_broken_file_keeps_what_it_said(tmp_path: Path, broken: str, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text("a"))
    async with watching(path) as (_, seen):
        path.write_text(broken)
        await seen.until(lambda: bool(seen.all[-1].problems))
        assert seen.names == ["a"]
        problem = seen.all[-1].problems[0]
        assert words in problem.message
        assert problem.source == str(path)
        assert problem.line
        path.write_text(text("z"))
        await seen.until(lambda: seen.names == ["z"])
        path.write_text("# none, for now\n")
        await seen.until(lambda: seen.names == [])
        assert seen.all[-1].problems == ()


async def test_good_objects_of_a_file_that_never_was_right(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text("a") + "---\n" + text("b").replace("rules", "ruels"))
    async with watching(path) as (_, seen):
        assert seen.names == ["a"]
        assert len(seen.all[-1].problems) == 1


async def test_a_path_that_vanishes_keeps_its_routes(tmp_path: Path) -> None:
    folder = tmp_path / "routes"
    folder.mkdir()
    (folder / "a.yaml").write_text(text("a"))
    async with watching(folder) as (_, seen):
        folder.rename(tmp_path / "elsewhere")
        await seen.until(lambda: bool(seen.all[-1].problems))
        assert seen.names == ["a"]
        (tmp_path / "elsewhere").rename(folder)
        await seen.until(lambda: not seen.all[-1].problems)
        assert seen.names == ["a"]


async def test_a_path_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "routes"
    async with watching(path) as (_, seen):
        assert "no routes are read" in seen.all[-1].problems[0].message
        path.mkdir()
        (path / "a.yaml").write_text(text("a"))
        await seen.until(lambda: seen.names == ["a"])


async def test_one_name_in_two_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text("same"))
    (tmp_path / "b.yaml").write_text(text("same", to="v2"))
    async with watching(tmp_path) as (_, seen):
        (problem,) = seen.all[-1].problems
        assert f"stands twice; the one at {tmp_path}/a.yaml:1 counts" in problem.message
        (tmp_path / "a.yaml").write_text("# nothing\n")
        await seen.until(lambda: not seen.all[-1].problems)


async def test_large_files_are_read_by_a_child(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    names = [f"r{i}" for i in range(400)]
    path.write_text(text(*names))
    async with watching(path) as (_, seen):
        assert len(seen.all[-1].objects) == 400
        one = seen.all[-1].objects.by_key[Key("HTTPRoute", "shop", "r7")]
        assert one.source == str(path)
        assert one.base_dir == str(tmp_path)
        assert one == read_path(str(path)).objects.by_key[Key("HTTPRoute", "shop", "r7")]


def test_reading_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text("a"))
    (tmp_path / "b.yaml").write_bytes(b"\xff")
    routes = read_path(str(tmp_path))
    assert [k.name for k in routes.objects.by_key] == ["a"]
    assert [p.message for p in routes.problems] == ["not UTF-8: invalid start byte"]
    with pytest.raises(FileNotFoundError):
        read_path(str(tmp_path / "nope"))
