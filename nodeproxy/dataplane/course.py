"""The course of a request by the routes of its service: which rule and backend, what is changed,
how long it may take and how often it is tried.

It is set once for a request, from the table of that moment, and holds to the request's end.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from nodeproxy.core.errors import (
    ConnectFailed,
    ProxyError,
    RouteNotFound,
    UpstreamClosed,
    UpstreamOverflow,
    UpstreamTimeout,
)
from nodeproxy.core.http1 import RequestHead, ResponseHead
from nodeproxy.core.record import Record
from nodeproxy.core.retry import Budget, wait_before
from nodeproxy.core.routing.forward import answer_fields, mirrors, outgoing
from nodeproxy.core.routing.rules import Decision, Rule
from nodeproxy.core.routing.table import HttpRules
from nodeproxy.core.routing.way import Way, way
from nodeproxy.dataplane.connection import Connection
from nodeproxy.dataplane.deadline import Deadline
from nodeproxy.dataplane.lane import sleep
from nodeproxy.dataplane.mirror import mirror
from nodeproxy.dataplane.upstream import Target, Upstream

__all__ = ["Course", "set_out"]

RETRIES_EXHAUSTED: Final = "URX"
GATEWAY_ERRORS: Final = (502, 503, 504)
OVER_BUDGET: Final = UpstreamOverflow.flag


def set_out(
    connection: Connection,
    upstream: Upstream,
    rules: HttpRules,
    head: RequestHead,
    record: Record,
) -> Course:
    """Decide. ``upstream`` is the service port that the client dialled. Raises RouteNotFound
    (404), InvalidBackend and UnresolvedFilter (500)."""
    node = connection.node
    decision = rules.match(head)
    if decision is None:
        raise RouteNotFound(
            f"{upstream.name} has routes, and no rule matches; `nodeproxy explain` tells why"
        )
    record.route = decision.rule.label
    taken = way(decision, head, node.catalog, node.draw(), upstream.port.port)
    provider = upstream
    if taken.found is not None:
        service, port = taken.found
        if service.name != upstream.service.name or port.port != upstream.port.port:
            provider = node.upstream(service, port)
        record.backend = provider.name
    return Course(connection, decision, taken, provider, record)


class Course:
    """What routes say of one request; see the module's text."""

    __slots__ = (
        "_connection",
        "_decision",
        "_record",
        "_retries",
        "_rule",
        "_try",
        "_way",
        "_whole",
        "answer",
        "provider",
        "tried",
    )

    def __init__(
        self,
        connection: Connection,
        decision: Decision,
        taken: Way,
        provider: Upstream,
        record: Record,
    ) -> None:
        self.provider = provider
        """Whose endpoints answer."""
        self.answer = taken.answer
        """The whole answer, if a filter gives it; there is no endpoint then."""
        self.tried: list[Target] = []
        """Endpoints that were given this request."""
        self._connection = connection
        self._decision = decision
        self._rule: Rule = decision.rule
        self._way = taken
        self._record = record
        self._retries = 0
        self._try: Deadline | None = None
        self._whole: Deadline | None = None
        limit = self._rule.timeouts.request
        if limit and taken.found is not None:
            reactor = connection.client.reactor
            left = limit - (monotonic() - record.started)
            message = f"the request took longer than the {limit:g} s of rule {self._rule.label}"
            self._whole = Deadline(reactor, max(0.0, left), UpstreamTimeout(message))
        if self._rule.retry is not None:
            self._budget().request(reactor_now(connection))

    # -- the request ---------------------------------------------------------------------

    def body_limit(self) -> int:
        """How long a body is waited for before the request is sent, so that it can be sent
        again; 0: it is sent as it comes."""
        retry = self._rule.retry
        if retry is not None:
            return retry.body_limit
        backend = self._way.backend
        if backend is None or self._rule.plain:
            return 0
        return 65536 if mirrors(self._decision, backend) else 0

    def head(self, head: RequestHead) -> RequestHead:
        """The head that goes on: the same object where no filter changes it."""
        if self._rule.plain or self._way.backend is None:
            return head
        return outgoing(head, self._decision, self._way.backend)

    def copy(self, request: bytes, method: bytes) -> None:
        """Send copies to those who are to have one: all of the request is in hand."""
        backend = self._way.backend
        if self._rule.plain or backend is None:
            return
        node = self._connection.node
        for each in mirrors(self._decision, backend):
            if each.wants(node.draw()):
                mirror(node, each.backend, request, method)

    # -- its tries -----------------------------------------------------------------------

    def begin(self, target: Target) -> None:
        """A try begins: the endpoint is connected. It is tried again only when there is no
        other one."""
        self._end_try()
        self.tried.append(target)
        limit = self._rule.timeouts.backend_request
        if limit:
            message = f"the endpoint took longer than the {limit:g} s of rule {self._rule.label}"
            error = UpstreamTimeout(message)
            self._try = Deadline(self._connection.client.reactor, limit, error)

    def again(self, failure: ProxyError | int) -> bool:
        """Whether a try that ended in an error, or an answer with this status, is followed by
        another one. It counts against the budget from here on."""
        retry = self._rule.retry
        if retry is None:
            return False
        if isinstance(failure, int):
            if (
                failure not in retry.codes
                and not ("5xx" in retry.on and failure >= 500)
                and not ("GatewayError" in retry.on and failure in GATEWAY_ERRORS)
            ):
                return False
        elif self._whole is not None and self._whole.raised(failure):
            return False
        elif isinstance(failure, UpstreamTimeout):
            if "Timeout" not in retry.on and failure.status not in retry.codes:
                return False
        elif not (
            (isinstance(failure, ConnectFailed) and "ConnectFailure" in retry.on)
            or (isinstance(failure, UpstreamClosed) and "Reset" in retry.on)
        ):
            return False
        if self._retries >= retry.attempts:
            self._record.flags = RETRIES_EXHAUSTED
            return False
        if not self._budget().admit(reactor_now(self._connection)):
            self._record.flags = OVER_BUDGET
            return False
        return True

    async def pause(self) -> None:
        """Wait as long as it takes before the next try."""
        self._end_try()
        retry = self._rule.retry
        assert retry is not None
        node = self._connection.node
        wait = wait_before(self._retries, retry.backoff, retry.max_backoff, node.draw())
        self._retries += 1
        await sleep(self._connection.client.reactor, wait)

    def _budget(self) -> Budget:
        budget = self.provider.budget
        if budget is None:
            budget = self.provider.budget = Budget()
        return budget

    # -- the answer ----------------------------------------------------------------------

    def respond(self, head: RequestHead, response: ResponseHead) -> None:
        """Have filters change an answer."""
        if not self._rule.plain:
            backend = self._way.backend
            fields = answer_fields(head, self._decision, backend, response.fields)
            if fields is not response.fields:
                response.fields = fields
                response.clean = False

    def end_limits(self) -> None:
        """No time limit counts any more."""
        self._end_try()
        if self._whole is not None:
            self._whole.cancel()
            self._whole = None

    def _end_try(self) -> None:
        if self._try is not None:
            self._try.cancel()
            self._try = None


def reactor_now(connection: Connection) -> float:
    return connection.client.reactor.now
