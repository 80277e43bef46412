"""What is installed: the same deployment files in a wheel, an editable install and a checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = {"systemd": ROOT / "systemd", "kubernetes": ROOT / "docs/deploy/kubernetes"}
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
PACKAGES = ("nodeproxy", "registry", "iptables")

LIST = """
from importlib.resources import files
for kind in ("systemd", "kubernetes"):
    for entry in (files("nodeproxy") / "deploy" / kind).iterdir():
        print(kind, entry.name, len(entry.read_bytes()))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a program that knows nothing of this test run."""
    hidden = ("PYTHON", "PYTEST", "COV", "VIRTUAL_ENV")
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith(hidden)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def expected() -> set[str]:
    return {
        f"{kind} {path.name} {path.stat().st_size}"
        for kind, folder in FOLDERS.items()
        for path in folder.iterdir()
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is made of: a build leaves folders behind."""
    tree = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        shutil.copy(ROOT / name, tree)
    for name in (*PACKAGES, "systemd", "docs/deploy"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
    return tree


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "wheel", *offline, "-w", target, checkout, cwd=target)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The interpreter of a fresh virtual environment without anything in it."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    return tmp_path / "venv" / "bin" / "python"


def test_the_wheel_holds_files_and_no_links(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        held = {
            f"{kind} {info.filename.rpartition('/')[2]} {info.file_size}"
            for kind in FOLDERS
            for info in archive.infolist()
            if info.filename.startswith(f"nodeproxy/deploy/{kind}/")
        }

    assert held == expected()
    assert not [n for n in names if n.startswith(("tests", "docs", "systemd"))]
    for package in PACKAGES:
        assert f"{package}/py.typed" in names


def test_the_wheel_holds_every_module(wheel: Path, checkout: Path) -> None:
    modules = {
        path.relative_to(checkout).as_posix()
        for package in PACKAGES
        for path in (checkout / package).rglob("*.py")
    }
    with zipfile.ZipFile(wheel) as archive:
        assert modules <= set(archive.namelist())


def test_an_installed_wheel_finds_them(wheel: Path, environment: Path, tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--python", environment, "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", wheel, cwd=tmp_path)

    assert set(run(environment, "-c", LIST, cwd=tmp_path).splitlines()) == expected()
    assert (environment.parent / "nodeproxy").exists()


def test_an_editable_install_finds_them(checkout: Path, environment: Path, tmp_path: Path) -> None:
    # Builds with the tools of this test run: nothing is fetched.
    built = tmp_path / "editable"
    built.mkdir()
    script = (
        "import sys; from setuptools import build_meta; "
        f"print(build_meta.build_editable({str(built)!r}))"
    )
    run(sys.executable, "-c", script, cwd=checkout)
    (made,) = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", environment, "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", made, cwd=tmp_path)

    assert set(run(environment, "-c", LIST, cwd=tmp_path).splitlines()) == expected()
