"""The file back end with the folder format of Linkerd 1.x, on real files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from registry.base import Context
from registry.file.backend import FileBackend, Options
from registry.model import Service
from registry.testing import CHECKS, Check, observe, sample

PATIENCE = 20.0


class Folder:
    """Conformance harness."""

    patience = PATIENCE

    def __init__(self, path: Path) -> None:
        self.path = path / "disco"

    def backend(self) -> FileBackend:
        return FileBackend(
            Options("disco", "linkerd-fs"), Context("f", base_dir=str(self.path.parent))
        )

    async def put(self, services: Sequence[Service]) -> None:
        self.path.mkdir(exist_ok=True)
        for service in services:
            lines = [f"{e.address} {e.port}\n" for e in service.endpoints]
            write(self.path / service.name.partition("/")[2], "".join(lines))
        names = {service.name.partition("/")[2] for service in services}
        for old in self.path.iterdir():
            if old.name not in names:
                old.unlink()

    async def garbage(self, services: Sequence[Service]) -> None:
        await self.put(services)
        write(self.path / "bad", "10.0.0.1 http\n")

    async def vanish(self) -> None:
        if self.path.exists():
            for file in self.path.iterdir():
                file.unlink()
            self.path.rmdir()


def write(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check, tmp_path: Path) -> None:
    await check(Folder(tmp_path))


async def test_any_name_is_a_service_but_for_hidden_files_and_backups(tmp_path: Path) -> None:
    harness = Folder(tmp_path)
    await harness.put([sample("web.yaml", "10.0.0.1"), sample("api", "10.0.0.2")])
    for name in (".hidden", "web~", "api.bak"):
        (harness.path / name).write_text("10.0.0.3 80\n")
    (harness.path / "folder").mkdir()

    async with observe(harness.backend()) as observer:
        await observer.sees([sample("web.yaml", "10.0.0.1"), sample("api", "10.0.0.2")], PATIENCE)
        assert not observer.reported


async def test_a_wrong_line_leaves_the_service_as_it_was_until_it_is_repaired(
    tmp_path: Path,
) -> None:
    harness = Folder(tmp_path)
    await harness.put([sample("web", "10.0.0.1")])
    async with observe(harness.backend()) as observer:
        await observer.sees([sample("web", "10.0.0.1")], PATIENCE)

        write(harness.path / "web", "10.0.0.2 8080\n10.0.0.3\n")
        await observer.until(lambda: bool(observer.reported), "the line must be told", PATIENCE)
        assert observer.view == {"default/web": frozenset({("10.0.0.1", 8080)})}
        assert observer.reported[0].line == 2

        write(harness.path / "web", "# none\n")
        await observer.until(
            lambda: observer.view == {"default/web": frozenset()}, "no endpoint", PATIENCE
        )
        assert not observer.reported
