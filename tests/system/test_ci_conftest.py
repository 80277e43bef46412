"""Where CI=true, a hole in the proof is a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parent.parent / "conftest.py"

HOLES = {
    "skip": "import pytest\ndef test_a():\n    pytest.skip('no reason')\n",
    "skipif": "import pytest\n@pytest.mark.skipif(True, reason='no reason')\ndef test_a(): ...\n",
    "xfail": "import pytest\n@pytest.mark.xfail(reason='no reason')\ndef test_a():\n    assert 0\n",
    "module": "import pytest\npytest.skip('no reason', allow_module_level=True)\n",
    "fixture": "import pytest\n@pytest.fixture\ndef f():\n    pytest.skip('no reason')\n"
    "def test_a(f): ...\n",
}


def run(folder: Path, *arguments: str, ci: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=environment | {"CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    tests = tmp_path / "tests"
    for level in ("unit", "dataplane", "netns", "system"):
        (tests / level).mkdir(parents=True)
        (tests / level / f"test_{level}.py").write_text("def test_a(): ...\n")
    (tests / "conftest.py").write_text(CONFTEST.read_text())
    return tmp_path


@pytest.mark.parametrize("hole", HOLES)
def test_a_hole_is_a_failure_in_ci(project: Path, hole: str) -> None:
    (project / "tests" / "unit" / "test_hole.py").write_text(HOLES[hole])

    done = run(project, ci="true")

    assert done.returncode in (1, 2), done.stdout
    assert "no reason" in done.stdout
    assert "CI=true" in done.stdout


def test_a_hole_is_only_shown_elsewhere(project: Path) -> None:
    (project / "tests" / "unit" / "test_hole.py").write_text(HOLES["xfail"] + HOLES["skipif"])

    assert run(project, ci="").returncode == 0


def test_the_levels_that_ran_are_told(project: Path) -> None:
    done = run(project, ci="true")

    assert done.returncode == 0, done.stdout
    assert "unit 1, dataplane 1, netns 1, system 1" in done.stdout


def test_a_whole_run_without_one_level_fails_in_ci(project: Path) -> None:
    (project / "tests" / "netns" / "test_netns.py").unlink()

    whole = run(project, ci="true")
    part = run(project, "tests/unit", ci="true")

    assert whole.returncode == 1
    assert "no test ran of: netns" in whole.stdout
    assert part.returncode == 0
