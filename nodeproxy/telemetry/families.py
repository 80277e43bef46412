"""Every metric of nodeproxy, one table: what it is called, its labels and what it means.

docs/telemetry.md repeats this table for operators and a test holds the two together. Units
are seconds and bytes. Label values come from the registry, the configuration or the code;
never from a client. A dash stands for "none" (no response flag, no route).

Metrics marked *pulled* have no series of their own: the daemon gives them a callback that is
read at each scrape.
"""

from __future__ import annotations

from typing import Final

from nodeproxy.telemetry.metrics import Metrics

__all__ = ["DURATION", "NONE", "Families"]

NONE: Final = "-"

DURATION: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds a request takes, from a cache's answer to a slow report."""
SHORT: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.025, 0.1, 1)
"""Seconds that the proxy itself takes."""
DETECT: Final = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1)
"""Seconds until a protocol is known; a server that speaks first costs the detection timeout."""
STALL: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2)
"""Seconds for which the loop did nothing else; 5 ms is the promise, 2 s lose the traffic."""

PORT: Final = ("service", "port")
ROUTE: Final = ("service", "port", "route")
REGISTRATION: Final = ("service", "port", "registry")
ENDPOINT: Final = ("service", "port", "endpoint")


class Families:
    """All metrics, defined in ``metrics``. One instance per process."""

    def __init__(self, metrics: Metrics) -> None:
        counter, gauge, histogram = metrics.counter, metrics.gauge, metrics.histogram
        self.metrics: Final = metrics

        # HTTP requests, by the service port that the client dialled.
        self.requests: Final = counter(
            "nodeproxy_requests_total",
            "HTTP requests that ended, by the status code given and the response flags.",
            (*ROUTE, "code", "flags"),
        )
        self.request_duration: Final = histogram(
            "nodeproxy_request_duration_seconds",
            "Time from a request's first byte to the end of its answer.",
            ROUTE,
            DURATION,
        )
        self.added_latency: Final = histogram(
            "nodeproxy_added_latency_seconds",
            "Time from a request's first byte to its being handed to an endpoint: reading the"
            " head, deciding, connecting, earlier tries.",
            ROUTE,
            SHORT,
        )
        self.request_bytes: Final = counter(
            "nodeproxy_request_bytes_total", "Bytes of request bodies, from clients.", ROUTE
        )
        self.response_bytes: Final = counter(
            "nodeproxy_response_bytes_total", "Bytes of response bodies, to clients.", ROUTE
        )
        self.retries: Final = counter(
            "nodeproxy_retries_total",
            "Tries after the first one, by what ended the try before.",
            (*PORT, "reason"),
        )

        # Connections from clients.
        self.connections_active: Final = gauge(
            "nodeproxy_connections_active", "Client connections that are open.", PORT
        )
        self.connections_refused: Final = counter(
            "nodeproxy_connections_refused_total",
            "Client connections that were answered with 503, or reset, because a limit on"
            " connections was reached: total, listener, client.",
            ("limit",),
        )
        self.tcp_opened: Final = counter(
            "nodeproxy_tcp_connections_opened_total",
            "Connections that began to be relayed as TCP.",
            PORT,
        )
        self.tcp_closed: Final = counter(
            "nodeproxy_tcp_connections_closed_total",
            "TCP connections that ended, by response flags; those that reached no endpoint are"
            " among them.",
            (*PORT, "flags"),
        )
        self.tcp_received: Final = counter(
            "nodeproxy_tcp_received_bytes_total",
            "Bytes from clients on TCP connections, counted when these end.",
            PORT,
        )
        self.tcp_sent: Final = counter(
            "nodeproxy_tcp_sent_bytes_total",
            "Bytes to clients on TCP connections, counted when these end.",
            PORT,
        )
        self.detect: Final = histogram(
            "nodeproxy_protocol_detect_seconds",
            "Time until an undeclared protocol was known.",
            ("result",),
            DETECT,
        )

        # Endpoints, as they are used from this node.
        self.endpoint_requests: Final = counter(
            "nodeproxy_endpoint_requests_total",
            "Requests and TCP connections tried at an endpoint, by outcome: success, or failure"
            " (status 500 and above, reset, timeout, bad answer, no connection).",
            (*ENDPOINT, "outcome"),
        )
        self.endpoint_response: Final = counter(
            "nodeproxy_endpoint_response_seconds_total",
            "Seconds spent waiting for the first byte of an endpoint's answers.",
            ENDPOINT,
        )
        self.endpoint_connect_failures: Final = counter(
            "nodeproxy_endpoint_connect_failures_total",
            "Connection attempts that an endpoint refused or left unanswered.",
            ENDPOINT,
        )
        self.endpoint_ejected: Final = gauge(
            "nodeproxy_endpoint_ejected",
            "1 while the endpoint is left out for its failures, 0 after that; absent if it"
            " never was.",
            ENDPOINT,
        )
        self.endpoint_ejections: Final = counter(
            "nodeproxy_endpoint_ejections_total",
            "Times that the endpoint was left out for its failures.",
            ENDPOINT,
        )

        self.endpoints: Final = gauge(
            "nodeproxy_endpoints",
            "Endpoints of the service ports in use, by whether they take new traffic.",
            (*PORT, "state"),
        )

        # The loop that everything runs on.
        self.loop_stall: Final = histogram(
            "nodeproxy_loop_stall_seconds",
            "How late each tick of the loop came: for so long nothing else had its turn.",
            (),
            STALL,
        )

        # Registries: pulled.
        self.registry_age: Final = gauge(
            "nodeproxy_registry_age_seconds",
            "Time since the registry last said that its answer is complete and fresh.",
            ("registry",),
        )
        self.registry_synced: Final = gauge(
            "nodeproxy_registry_synced",
            "1 if the registry's answer is up to date, 0 while its last good state serves.",
            ("registry",),
        )
        self.registry_errors: Final = counter(
            "nodeproxy_registry_errors_total",
            "Times that a registry could not be read and is tried again.",
            ("registry",),
        )
        self.registry_problems: Final = gauge(
            "nodeproxy_registry_problems",
            "Entries of the registry that cannot be used now.",
            ("registry",),
        )
        self.registry_services: Final = gauge(
            "nodeproxy_registry_services", "Services that the registry knows.", ("registry",)
        )
        self.registry_endpoints: Final = gauge(
            "nodeproxy_registry_endpoints", "Endpoints that the registry knows.", ("registry",)
        )
        self.registry_kept_empty: Final = gauge(
            "nodeproxy_registry_kept_empty",
            "1 while the registry says that it has no service at all and is not believed.",
            ("registry",),
        )
        self.registry_empty_answers: Final = counter(
            "nodeproxy_registry_empty_answers_total",
            "Times that a registry suddenly had no service at all and was not believed.",
            ("registry",),
        )
        self.registry_services_used: Final = gauge(
            "nodeproxy_registry_services_used",
            "Services whose endpoints of this registry are in use; the others wait in reserve.",
            ("registry",),
        )
        self.registration_up: Final = gauge(
            "nodeproxy_registration_up",
            "1 while all checks of this node's own service pass.",
            REGISTRATION,
        )
        self.registration_announced: Final = gauge(
            "nodeproxy_registration_announced",
            "1 while the registry has this node's own service, as far as is known.",
            REGISTRATION,
        )
        self.registration_losses: Final = counter(
            "nodeproxy_registration_losses_total",
            "Times that the registry had this node's own service no more, or could not be asked.",
            REGISTRATION,
        )
        self.registration_check_failures: Final = counter(
            "nodeproxy_registration_check_failures_total",
            "Checks of this node's own service that failed.",
            (*PORT, "check"),
        )
        self.vips_given: Final = gauge(
            "nodeproxy_vips_given", "Services that were given a virtual address."
        )
        self.vips_missing: Final = gauge(
            "nodeproxy_vips_missing",
            "Services without a virtual address because the network is full.",
        )
        self.dns_queries: Final = counter(
            "nodeproxy_dns_queries_total",
            "DNS queries, by the response code given; DROPPED: garbage that deserves no answer.",
            ("rcode",),
        )
        self.catalog_generation: Final = gauge(
            "nodeproxy_catalog_generation", "Number of the catalog in use; grows with each change."
        )
        self.catalog_conflicts: Final = gauge(
            "nodeproxy_catalog_conflicts", "Claims on an address and port that another one won."
        )

        # Routes: pulled.
        self.routes_generation: Final = gauge(
            "nodeproxy_routes_generation",
            "Number of the routes in force; grows with each change of their files.",
        )
        self.routes_objects: Final = gauge(
            "nodeproxy_routes_objects", "Routes, policies and other objects that the files hold."
        )
        self.routes_problems: Final = gauge(
            "nodeproxy_routes_problems",
            "Problems of route files; while there is one, the file's last good state counts.",
        )

        # Interception: pulled.
        self.rules_ok: Final = gauge(
            "nodeproxy_rules_ok", "1 if the rules in the kernel are as they should be."
        )
        self.rules_repairs: Final = counter(
            "nodeproxy_rules_repairs_total", "Times that rules were put right after drift."
        )
        self.switch_beats: Final = counter(
            "nodeproxy_switch_beats_total", "Beats that kept the dead-man's switch alive."
        )
        self.failopen_active: Final = gauge(
            "nodeproxy_failopen_active", "1 while traffic passes by the proxy."
        )

        # Telemetry about itself: pulled.
        self.access_log_lines: Final = counter(
            "nodeproxy_access_log_lines_total", "Lines handed to the access log's writer."
        )
        self.access_log_dropped: Final = counter(
            "nodeproxy_access_log_dropped_total",
            "Lines that were lost, by reason: full (the reader or disk is too slow), error (a write"
            " failed).",
            ("reason",),
        )

        # The process: pulled; names and meaning are those of Prometheus' client libraries.
        self.build_info: Final = gauge(
            "nodeproxy_build_info", "Always 1; the version is in the labels.", ("version", "python")
        )
        self.process_cpu: Final = counter(
            "process_cpu_seconds_total", "CPU time used so far, in user and kernel mode."
        )
        self.process_rss: Final = gauge(
            "process_resident_memory_bytes", "Memory of the process that is in RAM."
        )
        self.process_virtual: Final = gauge(
            "process_virtual_memory_bytes", "Address space of the process."
        )
        self.process_start: Final = gauge(
            "process_start_time_seconds",
            "When the process was started, in seconds since the epoch.",
        )
        self.process_open_fds: Final = gauge(
            "process_open_fds", "Descriptors that are open: connections, files, pipes."
        )
        self.process_max_fds: Final = gauge(
            "process_max_fds", "Descriptors that may be open at a time."
        )
