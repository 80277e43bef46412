"""Records become series, and series leave with what they describe."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nodeproxy.core.record import Record
from nodeproxy.telemetry.families import Families
from nodeproxy.telemetry.metrics import Metrics
from nodeproxy.telemetry.requests import Requests
from registry.model import Endpoint, Port, Service


class House:
    """Requests over fresh metrics, and what they show."""

    def __init__(self, max_series: int = 10_000) -> None:
        self.metrics = Metrics(max_series)
        self.requests = Requests(Families(self.metrics))

    def value(self, name: str, **labels: str) -> float | None:
        """The one sample of that name with those labels; None: there is none."""
        found = [
            sample.value
            for family in text_string_to_metric_families(b"".join(self.metrics.render()).decode())
            for sample in family.samples
            if sample.name == f"nodeproxy_{name}" and labels.items() <= sample.labels.items()
        ]
        assert len(found) <= 1
        return found[0] if found else None

    def shown(self) -> bytes:
        return b"".join(self.metrics.render())


@pytest.fixture
def house() -> House:
    return House()


def http(status: int = 200, flags: str = "", route: str = "", sent: float = 100.002) -> Record:
    record = Record(100.0, "HTTP/1.1", "10.0.0.1:999", "10.96.0.10:80")
    record.status, record.flags, record.route = status, flags, route
    record.sent, record.ended = sent, 100.03
    record.bytes_received, record.bytes_sent = 10, 200
    return record


def tcp(flags: str = "") -> Record:
    record = Record(100.0, "TCP", "10.0.0.1:999", "10.96.0.10:80")
    record.flags, record.ended = flags, 160.0
    record.bytes_received, record.bytes_sent = 5, 7
    return record


def test_a_request_is_counted_by_code_and_flags(house: House):
    series = house.requests.port("shop/web", 80)
    for record in (http(), http(), http(503, "UH"), http(0, "DC")):
        series.observe(record)
    labels = {"service": "shop/web", "port": "80", "route": "-"}
    assert house.value("requests_total", code="200", flags="-", **labels) == 2
    assert house.value("requests_total", code="503", flags="UH", **labels) == 1
    assert house.value("requests_total", code="0", flags="DC", **labels) == 1
    assert house.value("request_bytes_total", **labels) == 40
    assert house.value("response_bytes_total", **labels) == 800


def test_times_go_into_the_histograms(house: House):
    house.requests.port("shop/web", 80).observe(http())
    assert house.value("request_duration_seconds_bucket", le="0.025") == 0
    assert house.value("request_duration_seconds_bucket", le="0.05") == 1
    assert house.value("request_duration_seconds_sum") == pytest.approx(0.03)
    assert house.value("added_latency_seconds_bucket", le="0.001") == 0
    assert house.value("added_latency_seconds_bucket", le="0.0025") == 1


def test_a_request_that_reached_no_endpoint_has_no_added_latency(house: House):
    house.requests.port("shop/web", 80).observe(http(503, "UH", sent=-1.0))
    assert house.value("added_latency_seconds_count") == 0
    assert house.value("request_duration_seconds_count") == 1


def test_each_route_has_its_own_series(house: House):
    series = house.requests.port("shop/web", 80)
    for record in (http(route="a"), http(404, route="a"), http(route="b")):
        series.observe(record)
    assert house.value("request_duration_seconds_count", route="a") == 2
    assert house.value("request_duration_seconds_count", route="b") == 1


def test_a_relayed_connection_is_counted_at_both_ends(house: House):
    series = house.requests.port("shop/db", 5432)
    series.tcp_opened()
    assert house.value("tcp_connections_opened_total", service="shop/db", port="5432") == 1
    assert house.value("tcp_connections_closed_total") is None
    series.observe(tcp())
    series.observe(tcp("UF"))
    series.observe(tcp("UF"))
    assert house.value("tcp_connections_closed_total", flags="-") == 1
    assert house.value("tcp_connections_closed_total", flags="UF") == 2
    assert house.value("tcp_received_bytes_total") == 15
    assert house.value("tcp_sent_bytes_total") == 21
    assert house.value("requests_total") is None


def test_retries_are_counted_by_reason(house: House):
    series = house.requests.port("shop/web", 80)
    for reason in ("connection_refused", "connection_refused", "connection_timeout"):
        series.retry(reason)
    assert house.value("retries_total", reason="connection_refused") == 2
    assert house.value("retries_total", reason="connection_timeout") == 1


def test_unknown_destinations_share_one_series_whatever_their_port(house: House):
    house.requests.passthrough.observe(http())
    house.requests.passthrough.observe(http())
    assert house.value("requests_total", service="passthrough", port="-") == 2


def test_an_endpoint_and_its_ejection(house: House):
    series = house.requests.endpoint("shop/web", 80, "10.244.1.11", 8080)
    series.success.value += 3
    series.failure.value += 1
    series.connect_failures.value += 2
    series.waited.value += 0.5
    labels = {"service": "shop/web", "port": "80", "endpoint": "10.244.1.11:8080"}
    assert house.value("endpoint_requests_total", outcome="success", **labels) == 3
    assert house.value("endpoint_requests_total", outcome="failure", **labels) == 1
    assert house.value("endpoint_connect_failures_total", **labels) == 2
    assert house.value("endpoint_response_seconds_total", **labels) == 0.5
    series.restore()
    assert house.value("endpoint_ejected", **labels) is None
    series.eject()
    assert house.value("endpoint_ejected", **labels) == 1
    series.restore()
    series.eject()
    series.restore()
    assert house.value("endpoint_ejected", **labels) == 0
    assert house.value("endpoint_ejections_total", **labels) == 2


def test_an_ipv6_endpoint_stands_in_brackets(house: House):
    house.requests.endpoint("shop/web", 80, "fd00::1", 8080)
    assert house.value("endpoint_connect_failures_total", endpoint="[fd00::1]:8080") == 0


def test_the_same_series_every_time(house: House):
    requests = house.requests
    assert requests.port("shop/web", 80) is requests.port("shop/web", 80)
    assert requests.port("shop/web", 80) is not requests.port("shop/web", 81)
    assert requests.passthrough is requests.passthrough
    first = requests.endpoint("shop/web", 80, "10.0.0.1", 1)
    assert requests.endpoint("shop/web", 80, "10.0.0.1", 1) is first


def use(house: House) -> None:
    for port in (80, 443):
        series = house.requests.port("shop/web", port)
        series.observe(http())
        series.observe(tcp())
        series.retry("connection_refused")
        series.active.value += 1
        for address in ("10.0.0.1", "10.0.0.2"):
            house.requests.endpoint("shop/web", port, address, 8080).eject()


def test_a_service_that_leaves_takes_all_its_series(house: House):
    use(house)
    house.requests.update("shop/web", None)
    assert house.shown() == b""
    assert house.metrics.budget.total == 0


def test_ports_and_endpoints_that_leave_take_theirs(house: House):
    use(house)
    house.requests.update(
        "shop/web",
        Service("shop/web", ports=(Port(443),), endpoints=(Endpoint("10.0.0.2", 8080),)),
    )
    text = house.shown().decode()
    assert 'port="443"' in text
    assert 'port="80"' not in text
    assert "10.0.0.1:8080" not in text
    assert house.value("endpoint_ejected", endpoint="10.0.0.2:8080") == 1
    assert house.value("retries_total", port="443") == 1


def test_a_change_of_a_service_that_is_not_used_makes_no_series(house: House):
    house.requests.update("shop/other", Service("shop/other", ports=(Port(80),)))
    house.requests.update("shop/other", None)
    assert house.shown() == b""


def test_who_outlives_the_service_counts_into_nothing(house: House):
    series = house.requests.port("shop/web", 80)
    endpoint = house.requests.endpoint("shop/web", 80, "10.0.0.1", 8080)
    series.observe(http())
    house.requests.update("shop/web", None)
    for record in (http(), http(500, "UC"), tcp()):
        series.observe(record)
    series.retry("x")
    series.tcp_opened()
    series.active.value -= 1
    endpoint.success.value += 1
    endpoint.eject()
    assert house.shown() == b""
    assert house.requests.port("shop/web", 80) is not series


def test_sums_stay_right_beyond_the_limit():
    house = House(100)
    for number in range(50):
        house.requests.port(f"shop/s{number}", 80).observe(http())
    total = sum(
        sample.value
        for family in text_string_to_metric_families(house.shown().decode())
        for sample in family.samples
        if sample.name == "nodeproxy_requests_total"
    )
    assert total == 50
    assert house.value("request_duration_seconds_count", service="overflow")
