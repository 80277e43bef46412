"""Why a request takes the rule that it takes: every match by precedence, with the first condition
that fails. The conditions are the very objects that decide (:mod:`nodeproxy.core.routing.table`);
a property test holds both to each other."""

from __future__ import annotations

from typing import NamedTuple

from nodeproxy.core.http1 import RequestHead
from nodeproxy.core.routing.conditions import Condition, View, show
from nodeproxy.core.routing.groups import Candidate
from nodeproxy.core.routing.paths import strip_port
from nodeproxy.core.routing.rules import Decision
from nodeproxy.core.routing.table import HostRules, HttpRules

__all__ = ["RuleTrace", "explain", "explain_listener"]


class RuleTrace(NamedTuple):
    """One match of one rule, in the order in which they are tried."""

    decision: Decision
    wants: tuple[str, ...]
    """Its conditions: ``path begins with /api``, ``header x is 1``."""
    failed: int
    """Index of the first condition that does not hold; -1: all hold."""
    why: str
    """What the request has instead; empty where all conditions hold."""
    chosen: bool
    """It is the first whose conditions all hold."""

    @property
    def matches(self) -> bool:
        return self.failed < 0

    def __str__(self) -> str:
        rule = self.decision.rule
        name = f"{rule.route} rules[{rule.index}].matches[{self.decision.match}]"
        if self.chosen:
            return f"{name}: matches, and is the first that does"
        if self.matches:
            return f"{name}: would match, too"
        return f"{name}: {self.wants[self.failed]}, but {self.why}"


def explain(rules: HttpRules, head: RequestHead) -> tuple[RuleTrace, ...]:
    """All matches of a service's port (or of one hostname of a listener)."""
    return _trace(rules.ordered(), View(head), False)


def explain_listener(rules: HostRules, head: RequestHead) -> tuple[RuleTrace, ...]:
    """All matches of a listener. Those of hostnames that are not the request's come last."""
    view = View(head)
    host = strip_port(head.host)
    asked = rules.of(host)
    traces: list[RuleTrace] = []
    for each in asked:
        chosen = any(trace.chosen for trace in traces)
        traces += _trace(each.ordered(), view, chosen)
    others = [
        *((name, r) for name, r in rules.exact.items()),
        *((b"*" + name, r) for name, r in rules.wildcards.items()),
    ]
    for name, each in others:
        if not any(each is one for one in asked):
            traces += [
                RuleTrace(
                    candidate.decision,
                    (f"host is {show(name)}", *_wants(candidate)),
                    0,
                    f"the host is {show(host)}",
                    False,
                )
                for candidate in each.ordered()
            ]
    return tuple(traces)


def _trace(candidates: list[Candidate], view: View, chosen: bool) -> tuple[RuleTrace, ...]:
    traces = []
    for candidate in candidates:
        conditions: tuple[Condition, ...] = (candidate.path, *candidate.conditions)
        failed, why = -1, ""
        for i, condition in enumerate(conditions):
            if not condition.test(view):
                failed, why = i, condition.found(view)
                break
        first = failed < 0 and not chosen
        chosen = chosen or first
        traces.append(RuleTrace(candidate.decision, _wants(candidate), failed, why, first))
    return tuple(traces)


def _wants(candidate: Candidate) -> tuple[str, ...]:
    return tuple(c.text for c in (candidate.path, *candidate.conditions))
