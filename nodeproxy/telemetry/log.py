"""The daemon's own log: structlog, one line per event, to standard error.

Format ``json`` is for machines, ``console`` for people. What libraries log through the
standard library comes out in the same form. The level can be changed while the process runs.

Under systemd, when standard error is the journal itself, lines carry the syslog priority in
front (``<4>``, which the journal takes off; sd-daemon(3)) and the console form leaves out
colours and the time, which the journal has anyway.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from typing import Any, Final, Literal, TypeAlias, get_args

import structlog

__all__ = [
    "Level",
    "Throttle",
    "configure",
    "current_level",
    "get_logger",
    "set_level",
    "write_failures",
]

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
Format: TypeAlias = Literal["json", "console"]
Logger: TypeAlias = structlog.typing.FilteringBoundLogger
Event: TypeAlias = MutableMapping[str, Any]

NUMBERS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "exception": logging.ERROR,
}
PRIORITY: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
CHATTY: Final = ("httpx", "httpcore", "pyroute2", "asyncio")
"""Libraries whose INFO is other people's DEBUG."""


class _State:
    """The one level of the process; structlog's configuration is global as well."""

    threshold: int = logging.INFO


def configure(
    level: Level = "info",
    format: Format = "json",
    *,
    write: Callable[[bytes], object] | None = None,
    journal: bool | None = None,
    colors: bool | None = None,
) -> None:
    """Set up logging for the process; may be called again.

    ``write`` takes one line with its newline; by default it is written to standard error at
    once. A daemon gives :meth:`LineWriter.write`, so that a reader of the log who stops does
    not stop the loop. ``journal`` and ``colors`` are detected if left out.
    """
    journal = is_journal() if journal is None else journal
    if colors is None:
        colors = not journal and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    shared: list[structlog.typing.Processor] = [structlog.processors.add_log_level]
    if format == "json" or not journal:
        shared.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
    final: list[structlog.typing.Processor]
    if format == "json":
        final = [
            structlog.processors.format_exc_info,
            _ordered,
            structlog.processors.JSONRenderer(),
        ]
    else:
        plain = structlog.dev.plain_traceback
        final = [
            _printable,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain),
        ]
    if journal:
        final = [_Prioritised(final)]
    output = _Output(write or _to_stderr)
    structlog.configure(
        processors=[_filter, *shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=lambda *_: output,
        cache_logger_on_first_use=True,
    )
    handler = _Handler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_component, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    set_level(level)


def get_logger(name: str) -> Logger:
    """The logger of one part of the program; ``name`` is in each of its lines."""
    logger: Logger = structlog.get_logger(component=name)
    return logger


def set_level(level: str) -> None:
    """From now on, leave out what is below ``level``. Raises ValueError for an unknown one."""
    if level not in get_args(Level):
        raise ValueError(f"unknown level {level!r}; choose from {', '.join(get_args(Level))}")
    _State.threshold = NUMBERS[level]
    logging.getLogger().setLevel(_State.threshold)
    for name in CHATTY:
        quiet = logging.NOTSET if level == "debug" else logging.WARNING
        logging.getLogger(name).setLevel(quiet)


def current_level() -> str:
    """The level in force."""
    return next(name for name, number in NUMBERS.items() if number == _State.threshold)


def is_journal() -> bool:
    """Whether standard error is a stream of the systemd journal (systemd.exec(5))."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class Throttle:
    """Says a repeated event at most once per ``interval`` seconds and key.

    What was left out in between is told with the next line, as ``suppressed``. At most
    ``max_keys`` keys are remembered; the one that was said longest ago is forgotten first.
    """

    def __init__(
        self, log: Logger, interval: float, clock: Callable[[], float], max_keys: int = 256
    ) -> None:
        self._log = log
        self._interval = interval
        self._clock = clock
        self._max_keys = max_keys
        self._said: dict[Hashable, tuple[float, int]] = {}

    def info(self, key: Hashable, event: str, **fields: object) -> None:
        """Say ``event`` at level info, if it is time for it."""
        self._say(self._log.info, key, event, fields)

    def warning(self, key: Hashable, event: str, **fields: object) -> None:
        """Say ``event`` at level warning, if it is time for it."""
        self._say(self._log.warning, key, event, fields)

    def error(self, key: Hashable, event: str, **fields: object) -> None:
        """Say ``event`` at level error, if it is time for it."""
        self._say(self._log.error, key, event, fields)

    def _say(
        self, say: Callable[..., Any], key: Hashable, event: str, fields: dict[str, object]
    ) -> None:
        now = self._clock()
        said = self._said.get(key)
        if said is not None:
            when, suppressed = said
            if now - when < self._interval:
                self._said[key] = (when, suppressed + 1)
                return
            del self._said[key]
            if suppressed:
                fields["suppressed"] = suppressed
        elif len(self._said) >= self._max_keys:
            del self._said[next(iter(self._said))]
        self._said[key] = (now, 0)
        say(event, **fields)


def write_failures(log: Logger, clock: Callable[[], float]) -> Callable[[OSError], None]:
    """For :class:`LineWriter`: tells of failed writes, at most once a minute."""
    throttle = Throttle(log, 60.0, clock)

    def failed(error: OSError) -> None:
        throttle.warning(
            error.errno,
            "access log cannot be written; lines are lost",
            error=str(error),
            hint="see nodeproxy_access_log_dropped_total; traffic is not affected",
        )

    return failed


class _Output:
    """What structlog calls a logger: the end of the line."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def msg(self, text: str) -> None:
        self._write(text.encode("utf-8", "backslashreplace") + b"\n")

    debug = info = warning = error = critical = exception = fatal = msg


class _Handler(logging.Handler):
    """Takes what libraries log to the same end."""

    def __init__(self, output: _Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._output.msg(self.format(record))
        except Exception:
            self.handleError(record)


class _Prioritised:
    """The last processors, with the journal's priority put in front of their line."""

    def __init__(self, processors: list[structlog.typing.Processor]) -> None:
        self._processors = processors

    def __call__(self, logger: Any, method: str, event: Event) -> str:
        priority = PRIORITY.get(str(event.get("level")), 6)
        result: Any = event
        for processor in self._processors:
            result = processor(logger, method, result)
        return f"<{priority}>{result}"


def _filter(logger: Any, method: str, event: Event) -> Event:
    if NUMBERS.get(method, logging.INFO) < _State.threshold:
        raise structlog.DropEvent
    return event


def _component(logger: Any, method: str, event: Event) -> Event:
    """A library's lines carry its logger's name where ours carry the component."""
    event["component"] = event["_record"].name
    return event


def _ordered(logger: Any, method: str, event: Event) -> Event:
    """The keys that every line has come first."""
    first = {k: event[k] for k in ("timestamp", "level", "component", "event") if k in event}
    return {**first, **event}


def _printable(logger: Any, method: str, event: Event) -> Event:
    """No control code from outside reaches a terminal, and an event stays on its line."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable() and key != "exception":
            event[key] = CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", value)
    return event


def _to_stderr(line: bytes) -> None:
    try:
        sys.stderr.write(line.decode())
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # nobody is left to be told
