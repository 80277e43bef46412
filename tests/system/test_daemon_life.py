"""How the daemon begins, is told things, and ends: signals, systemd, refusals, scarcity."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system


# -- the end --------------------------------------------------------------------------------


def test_sigterm_lets_requests_in_flight_end_and_takes_no_new_ones(single: Any, kit: Any):
    daemon, port, one = single
    caller = kit.Caller("127.0.0.1", port)
    caller.send("/held")
    assert one.held.wait(10)
    daemon.signal(signal.SIGTERM)

    def refused() -> bool:
        try:
            kit.dial("127.0.0.1", port).close()
        except ConnectionRefusedError:
            return True
        return False

    kit.eventually(refused)
    status = daemon.status()  # it still tells how it is
    assert not status.ready
    assert "the daemon is stopping" in status.reasons
    one.released.set()
    answer = caller.answer()
    caller.close()
    assert (answer.status, answer.body) == (200, "one")
    assert answer.headers["connection"] == "close"
    assert daemon.wait() == 0
    assert [line["event"] for line in daemon.log()][-2:] == ["stopping", "stopped"]
    assert not daemon.socket.exists()


def test_a_second_sigterm_waits_for_nobody(single: Any, kit: Any):
    daemon, port, one = single
    caller = kit.Caller("127.0.0.1", port)
    caller.send("/held")
    assert one.held.wait(10)
    daemon.signal(signal.SIGTERM)
    kit.eventually(lambda: daemon.log("stopping"))
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert daemon.log("stopping at once")
    with pytest.raises((ConnectionError, OSError)):
        caller.answer()
    caller.close()


def test_what_is_in_flight_for_too_long_is_cut_off(daemon: Any, backends: Any, kit: Any):
    one = backends("one")
    port = daemon.listen("shop/web")
    daemon.configure(traffic={"drain_timeout": "100ms"})
    daemon.serve(kit.service("shop/web", [one]))
    daemon.start()
    caller = kit.Caller("127.0.0.1", port)
    caller.send("/held")
    assert one.held.wait(10)
    assert daemon.stop() == 0
    with pytest.raises((ConnectionError, OSError)):
        caller.answer()
    caller.close()


def test_sigint_is_an_orderly_end(web: Any):
    daemon, _, _ = web
    daemon.signal(signal.SIGINT)
    assert daemon.wait() == 0
    assert daemon.log("stopping")[0]["signal"] == "SIGINT"


def test_sigterm_while_a_registry_is_silent(daemon: Any, kit: Any):
    daemon.configure(registries=[])
    daemon.begin()
    kit.eventually(daemon.status)
    assert daemon.stop() == 0


# -- systemd --------------------------------------------------------------------------------


@contextlib.contextmanager
def supervisor(path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(10)
        yield sock


def test_systemd_hears_ready_beats_and_stopping(daemon: Any, backends: Any, kit: Any):
    daemon.listen("shop/web")
    daemon.serve(kit.service("shop/web", [backends("one")]))
    path = daemon.folder / "notify"
    with supervisor(path) as heard:
        watchdog = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "300000"}
        daemon.start(env=os.environ | watchdog)
        told = []
        while not any(b"READY=1" in message for message in told):
            told.append(heard.recv(4096))
        assert b"STATUS=1 services" in told[-1]
        while heard.recv(4096) != b"WATCHDOG=1":
            pass
        # A stopped process sends nothing: that is how systemd learns of it.
        daemon.signal(signal.SIGSTOP)
        kit.eventually(
            lambda: Path(f"/proc/{daemon.running.pid}/stat").read_text().split()[2] == "T"
        )
        heard.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.recv(4096)
        heard.settimeout(0.5)
        with pytest.raises(TimeoutError):
            heard.recv(4096)
        heard.settimeout(10)
        daemon.signal(signal.SIGCONT)
        while heard.recv(4096) != b"WATCHDOG=1":
            pass
        daemon.signal(signal.SIGTERM)
        while heard.recv(4096) != b"STOPPING=1":
            pass
        assert daemon.wait() == 0


def test_the_watchdog_of_another_process_is_not_ours(daemon: Any, kit: Any):
    path = daemon.folder / "notify"
    daemon.serve(kit.service("shop/web", []))
    with supervisor(path) as heard:
        daemon.start(
            env=os.environ
            | {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "30000", "WATCHDOG_PID": "1"}
        )
        told = [heard.recv(4096)]
        assert daemon.stop() == 0
        while told[-1] != b"STOPPING=1":
            told.append(heard.recv(4096))
    assert b"WATCHDOG=1" not in told


# -- what keeps it from starting --------------------------------------------------------------


def test_a_wrong_configuration_is_told_whole(daemon: Any):
    daemon.configure(
        traffic={"connect_timeuot": "1s", "balance": "fair"}, listeners=[{"bind": "localhost:80"}]
    )
    code, said = daemon.refusal()
    assert code == 2
    assert "connect_timeout" in said  # did you mean
    assert "traffic.balance" in said
    assert "127.0.0.1:80" in said
    assert "nodeproxy.yaml:" in said
    assert "Traceback" not in said


def test_an_unknown_kind_of_registry(daemon: Any):
    daemon.configure(registries=[{"kind": "fiel", "path": "services.yaml"}])
    code, said = daemon.refusal()
    assert code == 2
    assert "fiel" in said
    assert "file" in said
    assert "nodeproxy.yaml:" in said


def refused(daemon: Any, code: Any, *words: Any):
    ended, said = daemon.refusal()
    line = [line for line in said.splitlines() if line.startswith("nodeproxy: ")]
    assert (ended, len(line)) == (code, 1), said
    assert "Traceback" not in said
    for word in words:
        assert word in line[0]


def test_a_listener_whose_port_is_taken(daemon: Any, backends: Any):
    taken = backends("other")
    daemon.configure(listeners=[{"bind": taken.address, "service": "shop/web", "port": 80}])
    refused(
        daemon,
        1,
        f"listeners[0].bind: cannot listen on {taken.address}: another process has it",
        "`ss -ltnp` names it",
    )


def test_a_metrics_port_that_is_taken(daemon: Any, backends: Any):
    taken = backends("other")
    daemon.configure(telemetry={"metrics": taken.address})
    refused(
        daemon, 1, f"telemetry.metrics: cannot listen on {taken.address}: another process", "ss -l"
    )
    daemon.configure(telemetry={"metrics": "192.0.2.1:15020"})
    refused(daemon, 1, "telemetry.metrics: cannot listen on 192.0.2.1:15020: this node has no such")


def test_another_daemon_serves_the_admin_socket(web: Any, make_daemon: Any):
    first, _, _ = web
    second = make_daemon()
    second.configure(admin={"socket": str(first.socket)})
    refused(second, 1, f"another nodeproxy serves {first.socket}; stop it, or give this one")
    assert first.status().ready


def test_files_that_cannot_be_made(daemon: Any):
    (daemon.folder / "file").write_text("not a folder")
    daemon.configure(admin={"socket": "file/admin.sock"})
    refused(daemon, 1, "admin.socket: cannot make", "its folder must be writable")
    access = {"mode": "all", "path": "file/access.log"}
    daemon.configure(
        admin={"socket": "admin.sock"}, telemetry={"metrics": "off", "access_log": access}
    )
    refused(daemon, 1, "telemetry.access_log.path: ", "Not a directory")


@pytest.mark.netns
def test_interception_without_the_rights(make_daemon: Any):
    daemon = make_daemon(
        lambda command: [
            *("unshare", "-n", "setpriv", "--inh-caps=-all", "--bounding-set=-all"),
            *command,
        ]
    )
    daemon.configure(interception={"mode": "iptables"}, telemetry={"metrics": "off"})
    refused(daemon, 1, "run as root or with CAP_NET_ADMIN and CAP_NET_RAW")


# -- scarcity ---------------------------------------------------------------------------------


def test_out_of_descriptors(make_daemon: Any, backends: Any, kit: Any):
    daemon = make_daemon(lambda command: ["prlimit", "--nofile=60:60", *command])
    port = daemon.listen("shop/web")
    daemon.serve(kit.service("shop/web", [backends("one")]))
    daemon.start()
    first = kit.Caller("127.0.0.1", port)
    assert first.ask().status == 200
    crowd = [kit.dial("127.0.0.1", port) for _ in range(80)]
    try:
        kit.eventually(
            lambda: any(line["event"].startswith("not accepting") for line in daemon.log())
        )
        assert first.ask().status == 200  # who is served goes on being served
    finally:
        for client in crowd:
            client.close()
    kit.eventually(lambda: kit.ask("127.0.0.1", port).status == 200)
    assert daemon.status().ready
    assert first.ask().status == 200
    first.close()


def test_a_request_without_a_descriptor_is_answered(make_daemon: Any, backends: Any, kit: Any):
    daemon = make_daemon(lambda command: ["prlimit", "--nofile=60:60", *command])
    port = daemon.listen("shop/web")
    one = backends("one")
    daemon.serve(kit.service("shop/web", [one]))
    daemon.configure(telemetry={"metrics": "off", "access_log": {"mode": "off"}})
    daemon.start()
    crowd = [kit.Caller("127.0.0.1", port) for _ in range(80)]
    try:
        kit.eventually(
            lambda: any(line["event"].startswith("not accepting") for line in daemon.log())
        )
        for caller in crowd[:10]:  # whatever is left, these take it
            caller.send("/held")
        assert crowd[10].ask().status == 503
    finally:
        one.released.set()
        for caller in crowd:
            caller.close()
    kit.eventually(lambda: kit.ask("127.0.0.1", port).status == 200)


def test_nobody_reads_the_log(make_daemon: Any, backends: Any, kit: Any):
    daemon = make_daemon()
    port = daemon.listen("shop/web")
    daemon.serve(kit.service("shop/web", [backends("one")]))
    daemon.configure(
        telemetry={"metrics": "off", "access_log": {"mode": "all", "path": "stderr"}},
        log={"level": "debug"},
    )
    reader, writer = os.pipe()
    try:
        daemon.start(stderr=writer)
        caller = kit.Caller("127.0.0.1", port)
        path = "/" + "x" * 4000
        # More than the pipe and the writer's queue hold.
        answers = {caller.ask(path).status for _ in range(1300)}
        assert answers == {200}
        assert daemon.metric("nodeproxy_access_log_dropped_total") > 0
        caller.close()
        assert daemon.stop() == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_the_loop_tells_of_its_stalls(web: Any, kit: Any):
    daemon, port, _ = web
    daemon.signal(signal.SIGSTOP)
    stat = Path(f"/proc/{daemon.running.pid}/stat")
    kit.eventually(lambda: stat.read_text().split()[2] == "T")
    answers = []
    thread = threading.Thread(target=lambda: answers.append(kit.ask("127.0.0.1", port).status))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()  # it waits
    daemon.signal(signal.SIGCONT)
    thread.join(10)
    assert answers == [200]
    kit.eventually(lambda: daemon.status().loop.worst_stall_seconds > 0.1)
    assert daemon.metric("nodeproxy_loop_stall_seconds_count") > 0
    assert kit.eventually(lambda: daemon.log("the loop stalled"))


def test_python_tells_where_a_hung_process_hangs(web: Any):
    """systemd's watchdog aborts: the log then holds the stack."""
    if sys.platform != "linux":
        raise AssertionError("Linux only")
    daemon, _, _ = web
    environment = os.environ | {"PYTHONFAULTHANDLER": "1"}
    assert daemon.stop() == 0
    daemon.log_path.write_text("")
    daemon.start(env=environment)
    daemon.signal(signal.SIGABRT)
    assert daemon.wait() == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in daemon.log_path.read_text()
