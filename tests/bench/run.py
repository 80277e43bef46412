"""Starts the benchmark: `python tests/bench/run.py --help`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The parent folder instead of our own: modules are `bench.x`, the name that tests use too.
sys.path[:] = [str(HERE.parent), *(path for path in sys.path if Path(path).resolve() != HERE)]

from bench.command import main  # noqa: E402

if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
