"""The back end ``file`` on real files and the real inotify."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from registry.base import Context, RegistryError
from registry.file import loader
from registry.file.backend import FileBackend, Options
from registry.file.inotify import Watcher
from registry.file.places import scan, watch_points
from registry.model import Service
from registry.supervise import Registries, Spec, State
from registry.testing import CHECKS, Check, Observer, observe, sample

PATIENCE = 20.0


def entry(service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "ports": [{"port": p.port} for p in service.ports],
        "endpoints": [f"{e.address}:{e.port}" for e in service.endpoints],
    }


def text_of(*services: Service) -> str:
    return json.dumps({"services": [entry(s) for s in services]}, indent=1)


def replace(path: Path, text: str) -> None:
    """As a careful writer does it."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


class OneFile:
    """Conformance harness: one file, replaced by rename."""

    patience = PATIENCE

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "deep" / "services.yaml"

    def backend(self) -> FileBackend:
        return FileBackend(Options(str(self.path)), Context("file"))

    async def put(self, services: Sequence[Service]) -> None:
        self.path.parent.mkdir(exist_ok=True)
        replace(self.path, text_of(*services))

    async def garbage(self, services: Sequence[Service]) -> None:
        self.path.parent.mkdir(exist_ok=True)
        bad = {"services": [{"nme": "x"}, *(entry(s) for s in services), 7]}
        replace(self.path, json.dumps(bad))

    async def vanish(self) -> None:
        self.path.unlink(missing_ok=True)


class Folder(OneFile):
    """Conformance harness: a folder with a file for each service."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "services.d"

    async def put(self, services: Sequence[Service]) -> None:
        self.path.mkdir(exist_ok=True)
        (self.path / "README").write_text("not read")
        (self.path / ".hidden.yaml").write_text("not: read")
        wanted = {f"{s.name.replace('/', '_')}.yaml": s for s in services}
        for name, service in wanted.items():
            replace(self.path / name, text_of(service))
        for old in self.path.glob("[!.]*.yaml"):
            if old.name not in wanted:
                old.unlink()

    async def garbage(self, services: Sequence[Service]) -> None:
        await self.put(services)
        (self.path / "garbage.yaml").write_text("services: [{nme: x}]")

    async def vanish(self) -> None:
        if self.path.exists():
            for file in self.path.iterdir():
                file.unlink()
            self.path.rmdir()


@pytest.mark.parametrize("kind", [OneFile, Folder])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check, kind: Callable[[Path], OneFile], tmp_path: Path) -> None:
    await check(kind(tmp_path))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance_when_read_by_a_child(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "SMALL", 0)
    await check(OneFile(tmp_path))


WEB, API = sample("web", "10.0.0.1"), sample("api", "10.0.0.3", port=9090)


def backend(path: Path) -> FileBackend:
    return FileBackend(Options(str(path)), Context("file"))


async def told(observer: Observer, words: str) -> None:
    await observer.until(
        lambda: any(words in str(p) for p in observer.reported), f"expected {words!r}", PATIENCE
    )


async def test_a_file_that_turns_bad_keeps_its_last_good_state_and_names_the_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(text_of(WEB, API))
    async with observe(backend(path)) as observer:
        await observer.sees([WEB, API], PATIENCE)
        syncs = observer.syncs
        replace(path, "services:\n- name: web\n  ports: [\n- x: y\n")
        await told(observer, f"{path}:4: ")
        await observer.until(lambda: bool(observer.errors), "expected an error", PATIENCE)
        assert isinstance(observer.errors[0], RegistryError)
        assert f"{path}:4: " in str(observer.errors[0])
        assert len(observer.view) == 2
        assert observer.syncs == syncs  # nothing has confirmed the services
        replace(path, text_of(API))
        await observer.sees([API], PATIENCE)
        assert not observer.reported
        assert len(observer.errors) == 1


async def test_a_bad_entry_keeps_its_own_last_good_state(tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    path.write_text("services: [{name: web, endpoints: ['10.0.0.1:80']}, {name: api}]")
    async with observe(backend(path)) as observer:
        await observer.until(lambda: len(observer.view) == 2, "two services", PATIENCE)
        replace(
            path,
            "services:\n- name: web\n  endpoints: ['10.0.0.1:80000']\n- name: new\n",
        )
        await told(observer, f"{path}:3: services[0].endpoints[0]: ")
        await observer.until(lambda: "default/new" in observer.view, "the new one", PATIENCE)
        assert observer.view["default/web"] == {("10.0.0.1", 80)}
        assert "default/api" not in observer.view
        # An entry without a name could be any: nothing goes while it is there.
        replace(path, "services:\n- nme: web\n")
        await told(observer, "nme")
        assert set(observer.view) == {"default/web", "default/new"}


async def test_an_emptied_file_keeps_its_services_and_a_said_nothing_does_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(text_of(WEB))
    async with observe(backend(path)) as observer:
        await observer.sees([WEB], PATIENCE)
        path.write_text("")
        await told(observer, "the file is empty")
        assert len(observer.view) == 1
        path.write_text("services: []\n")
        await observer.sees([], PATIENCE)


async def test_a_config_map_swap_is_seen(tmp_path: Path) -> None:
    """As kubelet does it: files link to ``..data``, and that link is replaced by rename."""
    mount = tmp_path / "mount"

    def publish(generation: str, text: str) -> None:
        folder = mount / f"..{generation}"
        folder.mkdir(parents=True)
        (folder / "services.yaml").write_text(text)
        link = mount / "..data_tmp"
        link.symlink_to(folder.name)
        link.replace(mount / "..data")

    publish("2026_01", text_of(WEB))
    (mount / "services.yaml").symlink_to("..data/services.yaml")
    for path in (mount, mount / "services.yaml"):
        async with observe(backend(path)) as observer:
            await observer.until(lambda: bool(observer.view), "a service", PATIENCE)
            generation = f"2026_{path.name}"
            publish(generation, text_of(sample("web", "10.0.1.1"), API))
            await observer.sees([sample("web", "10.0.1.1"), API], PATIENCE)
            publish(f"{generation}x", text_of(WEB))
            await observer.sees([WEB], PATIENCE)


async def test_a_folder_link_that_is_switched_is_seen(tmp_path: Path) -> None:
    for release, service in (("one", WEB), ("two", API)):
        (tmp_path / release).mkdir()
        (tmp_path / release / "services.yaml").write_text(text_of(service))
    current = tmp_path / "current"
    current.symlink_to("one")
    async with observe(backend(current / "services.yaml")) as observer:
        await observer.sees([WEB], PATIENCE)
        (tmp_path / "next").symlink_to(tmp_path / "two")
        (tmp_path / "next").replace(current)
        await observer.sees([API], PATIENCE)


async def test_a_file_written_in_place_in_pieces_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(text_of(WEB))
    async with observe(backend(path)) as observer:
        await observer.sees([WEB], PATIENCE)
        text = text_of(WEB, API)
        with path.open("w") as file:
            for i in range(0, len(text), 20):
                file.write(text[i : i + 20])
                file.flush()
                await trio.sleep(0.002)
        await observer.sees([WEB, API], PATIENCE)


async def test_services_of_several_files_are_joined(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "services: [{name: web, ports: [{port: 80}], endpoints: ['10.0.0.1:80']}]"
    )
    (tmp_path / "b.json").write_text(
        '{"services": [{"name": "web", "endpoints": ["10.0.0.2:80"]}]}'
    )
    async with observe(backend(tmp_path)) as observer:
        both = {"default/web": {("10.0.0.1", 80), ("10.0.0.2", 80)}}
        await observer.until(lambda: observer.view == both, str(both), PATIENCE)
        (tmp_path / "a.yaml").unlink()
        one = {"default/web": {("10.0.0.2", 80)}}
        await observer.until(lambda: observer.view == one, str(one), PATIENCE)


async def test_only_changed_files_are_parsed_and_only_changed_services_told(
    tmp_path: Path,
) -> None:
    for i in range(50):
        (tmp_path / f"{i:02}.yaml").write_text(text_of(sample(f"s{i}", "10.0.0.1")))
    files = backend(tmp_path)
    async with observe(files) as observer:
        await observer.until(lambda: len(observer.view) == 50, "50 services", PATIENCE)
        assert files.parsed == 50
        before = observer.publications
        replace(tmp_path / "07.yaml", text_of(sample("s7", "10.0.0.1", "10.0.0.2")))
        await observer.until(lambda: len(observer.view["default/s7"]) == 2, "a change", PATIENCE)
        assert files.parsed == 51
        assert observer.publications == before + 1


async def test_one_endpoint_of_a_large_file_costs_one_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts work: decoded services and publications, not seconds."""
    monkeypatch.setattr(loader, "SMALL", 0)
    path = tmp_path / "services.yaml"
    services = [sample(f"s{i}", f"10.0.{i >> 8}.{i & 255}") for i in range(500)]
    path.write_text(text_of(*services))
    files = backend(path)
    decoded: list[int] = []
    take = files._take
    monkeypatch.setattr(files, "_take", lambda *args: decoded.append(work := take(*args)) or work)
    async with observe(files) as observer:
        await observer.sees(services, PATIENCE)
        assert sum(decoded) == 1000
        decoded.clear()
        before = observer.publications
        services[250] = sample("s250", "10.9.9.9")
        replace(path, text_of(*services))
        await observer.sees(services, PATIENCE)
        assert sum(decoded) == 501  # one look at each digest, one endpoint decoded
        assert observer.publications == before + 1


async def test_a_reader_that_dies_is_an_error_and_not_an_empty_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(text_of(WEB))
    async with observe(backend(path)) as observer:
        await observer.sees([WEB], PATIENCE)
        monkeypatch.setattr(loader, "SMALL", 0)
        monkeypatch.setattr("sys.executable", "/bin/false")
        replace(path, text_of(API))
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
        assert "reader of large files" in str(observer.errors[0])
        assert set(observer.view) == {"default/web"}
        monkeypatch.undo()
        await observer.sees([API], PATIENCE)


async def test_a_forbidden_or_odd_path_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    async with observe(backend(tmp_path / "pipe.yaml")) as observer:
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
        assert "not a file or folder" in str(observer.errors[0])


async def test_no_thread_or_descriptor_is_left(tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(text_of(WEB))
    before = set(os.listdir("/proc/self/fd"))
    async with observe(backend(path)) as observer:
        await observer.sees([WEB], PATIENCE)
    assert set(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() < 20


async def test_a_node_restarted_with_a_broken_file_serves_its_last_good_state(
    tmp_path: Path,
) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(text_of(WEB, API))
    spec = Spec("file", "file", {"path": "services.yaml"}, str(tmp_path), "nodeproxy.yaml:3")

    def registries() -> Registries:
        return Registries(
            [spec], on_change=lambda catalog, changes: None, state_dir=tmp_path / "state"
        )

    for broken in (False, True):
        if broken:
            replace(path, "services:\n- name: [\n")
        running = registries()
        async with trio.open_nursery() as nursery:
            await nursery.start(running.run)
            with trio.fail_after(PATIENCE):
                await running.wait_synced()
            assert {s.name for s in running.catalog} == {"default/web", "default/api"}
            if broken:
                with trio.fail_after(PATIENCE):
                    while not running.statuses()[0].last_error:
                        await trio.lowlevel.checkpoint()
                (status,) = running.statuses()
                assert status.state == State.RESTORED
                assert f"{path}:3" in status.last_error
                assert [p.line for p in status.problems] == [3]
            nursery.cancel_scope.cancel()


# --- the parts ---


def test_watch_points_follow_links_and_end_at_what_exists(tmp_path: Path) -> None:
    real = Path(os.path.realpath(tmp_path))
    (real / "a" / "b").mkdir(parents=True)
    (real / "link").symlink_to("a/b")
    (real / "loop").symlink_to("loop")
    assert watch_points(str(real / "none" / "x.yaml")) == [str(real)]
    assert watch_points(str(real / "a" / "b")) == [str(real / "a"), str(real / "a" / "b")]
    assert watch_points(str(real / "link" / "x.yaml")) == [str(real), str(real / "a" / "b")]
    assert str(real) in watch_points(str(real / "loop" / "x.yaml"))
    assert scan(str(real / "loop")).missing
    assert scan(str(real / "none")).missing.endswith("No such file or directory")


async def test_a_watcher_tells_of_what_happens_in_its_folders(tmp_path: Path) -> None:
    with Watcher() as watcher:
        assert watcher.watch([str(tmp_path), str(tmp_path / "none")])
        assert not watcher.watch([str(tmp_path)])
        (tmp_path / "x").write_text("x")
        with trio.fail_after(PATIENCE):
            assert await watcher.wait()
        (tmp_path / "x").unlink()
        with trio.fail_after(PATIENCE):
            assert not await watcher.wait()
        watcher.watch([])
        (tmp_path / "y").write_text("y")
        with trio.move_on_after(0.05) as scope:
            await watcher.wait()
        assert scope.cancelled_caught
