"""Sphinx settings. Build: python -m sphinx -W -b html docs docs/_build/html"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INIT = (ROOT / "nodeproxy" / "__init__.py").read_text(encoding="utf-8")
FOUND = re.search(r'^__version__ = "([^"]+)"$', INIT, re.MULTILINE)
if FOUND is None:
    raise SystemExit("docs/conf.py: nodeproxy/__init__.py has no __version__ line")

project = "nodeproxy"
author = "The nodeproxy developers"
copyright = "The nodeproxy developers, Apache-2.0"
version = release = FOUND.group(1)

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nitpicky = True

html_theme = "furo"
html_title = f"nodeproxy {release}"
html_show_sphinx = False
