"""Route files: the Gateway API's objects and our policies, read strictly and watched.

:func:`read_path` reads once, for commands; :class:`RouteFiles` reads for as long as the daemon
runs, and publishes a :class:`Routes` whenever something has changed.
"""

from nodeproxy.routes.files import RouteFiles, Routes, read_path
from nodeproxy.routes.reading import is_route_document

__all__ = ["RouteFiles", "Routes", "is_route_document", "read_path"]
