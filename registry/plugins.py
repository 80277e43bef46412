"""Back ends by kind: entry points of the group ``nodeproxy.registries``.

A plug-in is imported only when a configuration names its kind, so a broken one harms nobody
who does not use it.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from registry.base import Backend, Context, Problem
from registry.duration import Duration
from registry.strict import Document, convert, near
from registry.transform import Composition

__all__ = ["GROUP", "Spec", "SpecError", "Supervision", "check", "kinds", "load", "make", "typed"]

GROUP: Final = "nodeproxy.registries"


class Spec(msgspec.Struct, frozen=True):
    """One entry of ``registries`` in the configuration."""

    name: str
    kind: str
    options: dict[str, Any] = {}
    """All other keys of the entry: those of the back end and of the supervision."""
    base_dir: str = "."
    origin: str = ""
    """``nodeproxy.yaml:12``."""
    lines: dict[str, int] = {}
    """``rename[0].to`` -> 14, where the lines of single keys are known."""


class Supervision(Composition, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of a registry's entry that are ours, not the back end's."""

    keep_on_empty: bool = True
    """Doubt an answer with no service at all; see :mod:`registry.feed`."""
    keep_on_empty_for: Duration = Duration("10m")
    """How long such an answer is doubted."""


class SpecError(Exception):
    """A registry is configured wrongly. ``problems`` says where and why; never empty."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def kinds() -> Mapping[str, importlib.metadata.EntryPoint]:
    """All installed kinds. Nothing is imported."""
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def load(kind: str, origin: str = "") -> type[Any]:
    """The back end's class. Raises SpecError for an unknown kind, two plug-ins of one kind, and
    a plug-in that cannot be imported or is not a back end, naming its distribution."""
    points = importlib.metadata.entry_points(group=GROUP, name=kind)
    source, line = _place(origin)

    def wrong(message: str) -> SpecError:
        return SpecError([Problem(message, source, line, "kind")])

    if not points:
        raise wrong(f"unknown registry kind {kind!r}{near(kind, kinds())}")
    owners = sorted({_distribution(point) for point in points})
    if len({point.value for point in points}) > 1:
        raise wrong(f"the kind {kind!r} is claimed by {' and by '.join(owners)}: remove one")
    try:
        found = next(iter(points)).load()
    except Exception as error:
        # Foreign code runs here; whatever it raises is its distribution's problem.
        raise wrong(
            f"the kind {kind!r} of {owners[0]} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    missing = [a for a in ("kind", "options_type", "run") if not hasattr(found, a)]
    if not isinstance(found, type) or missing:
        lacks = f" (no {', '.join(missing)})" if missing else ""
        raise wrong(f"the kind {kind!r} of {owners[0]} is not a registry back end{lacks}")
    return found


def check(spec: Spec) -> list[Problem]:
    """Everything wrong with ``spec``, without running it; for ``nodeproxy validate``."""
    try:
        make(spec, Context(spec.name, base_dir=spec.base_dir))
    except SpecError as error:
        return error.problems
    return []


def make(spec: Spec, context: Context) -> tuple[Supervision, Backend]:
    """Our options and the back end. Raises SpecError with the problems of both."""
    keys = set(Supervision.__struct_fields__)
    ours: Mapping[str, Any] = {k: v for k, v in spec.options.items() if k in keys}
    theirs = {k: v for k, v in spec.options.items() if k not in keys}
    problems: list[Problem] = []
    supervision, backend = Supervision(), None
    try:
        supervision = typed(spec, Supervision, ours)
    except SpecError as error:
        problems += error.problems
    try:
        backend = _backend(spec, context, theirs)
    except SpecError as error:
        problems += error.problems
    if problems or backend is None:
        raise SpecError(sorted(problems, key=lambda problem: problem.line))
    return supervision, backend


def typed(spec: Spec, type_: type[Any], options: Mapping[str, Any]) -> Any:
    """``options`` as ``type_``. Raises SpecError with every problem."""
    source, line = _place(spec.origin)
    value, problems = convert(Document(source, dict(options), lines=line), type_)
    if problems:
        raise SpecError([_lined(problem, spec.lines) for problem in problems])
    return value


def _lined(problem: Problem, lines: Mapping[str, int]) -> Problem:
    """With the line of its key, or of the nearest part around it that has one."""
    field = problem.field
    while field:
        if field in lines:
            return msgspec.structs.replace(problem, line=lines[field])
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
    return problem


def _backend(spec: Spec, context: Context, options: Mapping[str, Any]) -> Backend:
    """The back end of ``spec``, not running yet. Raises SpecError."""
    found = load(spec.kind, spec.origin)
    problems = _mistyped(spec, found.options_type, options)
    try:
        given = typed(
            spec,
            found.options_type,
            {k: v for k, v in options.items() if k not in {p.field for p in problems}},
        )
    except SpecError as error:
        problems += error.problems
    if problems:
        raise SpecError(problems)
    try:
        backend: Backend = found(given, context)
    except ValueError as error:
        raise SpecError([Problem(str(error), *_place(spec.origin), spec.kind)]) from error
    return backend


def _mistyped(spec: Spec, type_: type[Any], options: Mapping[str, Any]) -> list[Problem]:
    """Keys that mean ours: the back end's options know nothing that is near them."""
    theirs = getattr(type_, "__struct_encode_fields__", ())
    found = []
    for key in options.keys() - set(theirs):
        if theirs and difflib.get_close_matches(key, theirs, n=1, cutoff=0.6):
            continue
        close = difflib.get_close_matches(key, Supervision.__struct_fields__, n=1, cutoff=0.6)
        if close:
            message = f"unknown key {key!r}; did you mean {close[0]!r}?"
            found.append(_lined(Problem(message, *_place(spec.origin), key), spec.lines))
    return found


def _place(origin: str) -> tuple[str, int]:
    source, colon, line = origin.rpartition(":")
    return (source, int(line)) if colon and line.isdecimal() else (origin, 0)


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    dist = point.dist
    return f"{dist.name} {dist.version}" if dist else point.value
