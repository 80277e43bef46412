"""What happens to the services file, and what becomes of traffic, log, status and metrics.

docs/operations.md promises each of these ends.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

pytestmark = pytest.mark.system


def served(kit: Any, port: int) -> str:
    """Who answers, or the status of a refusal."""
    try:
        answer = kit.ask("127.0.0.1", port)
    except ConnectionResetError:
        return "reset"  # no service, so no protocol in which to answer
    return answer.body if answer.status == 200 else str(answer.status)


def wait_for_state(kit: Any, daemon: Any, state: str) -> Any:
    """The registry's status, once it is in this state."""

    def found() -> Any:
        registry = daemon.registry()
        assert registry.state == state, registry
        return registry

    return kit.eventually(found)


def test_an_endpoint_is_added_and_another_removed(single: Any, backends: Any, kit: Any):
    daemon, port, one = single
    other = backends("other")
    daemon.serve(kit.service("shop/web", [one, other]))
    kit.eventually(lambda: served(kit, port) == "other")
    daemon.serve(kit.service("shop/web", [other]))
    kit.eventually(lambda: daemon.status().endpoints == 1)
    assert {served(kit, port) for _ in range(5)} == {"other"}
    assert daemon.registry().state == "synced"


def test_broken_yaml_keeps_the_last_good_state_and_names_the_line(single: Any, kit: Any):
    daemon, port, _ = single
    daemon.replace("services:\n  - name: shop/web\n    vips: [10.96.0.10\n    ports: }\n")
    registry = wait_for_state(kit, daemon, "stale")
    assert "services.yaml:4" in registry.last_error or "services.yaml:3" in registry.last_error
    assert served(kit, port) == "one"
    assert "services.yaml:" in daemon.log("registry failed")[0]["error"]
    assert daemon.metric("nodeproxy_registry_problems", registry="file") >= 1
    assert daemon.metric("nodeproxy_registry_synced", registry="file") == 0
    kit.eventually(lambda: daemon.metric("nodeproxy_registry_errors_total", registry="file") == 1)
    # Repaired: all is well again, without a restart.
    daemon.serve(kit.service("shop/web", []))
    registry = wait_for_state(kit, daemon, "synced")
    assert (registry.last_error, registry.problems) == ("", ())
    assert daemon.metric("nodeproxy_registry_problems") == 0
    assert served(kit, port) == "503"


def test_one_wrong_entry_keeps_what_it_was_and_the_others_change(
    single: Any, backends: Any, kit: Any
):
    daemon, port, one = single
    other = backends("other")
    wrong = kit.service("shop/web", [one], vipz=["10.96.0.10"])
    daemon.serve(wrong, kit.service("shop/new", [other]))
    kit.eventually(lambda: daemon.status().services == 2)
    registry = daemon.registry()
    assert registry.state == "synced"
    assert registry.problems_total == 1
    assert "vipz" in registry.problems[0].message + registry.problems[0].field
    assert registry.problems[0].line > 1
    assert served(kit, port) == "one"
    assert daemon.metric("nodeproxy_registry_problems", registry="file") == 1
    shown = daemon.cli("status")
    assert "services.yaml:" in shown.stdout
    assert "vipz" in shown.stdout


def test_an_emptied_list_is_not_believed(single: Any, kit: Any):
    daemon, port, _ = single
    daemon.replace("services: []\n")
    registry = wait_for_state(kit, daemon, "kept")
    assert served(kit, port) == "one"
    assert any("no service at all" in p.message for p in registry.problems)
    assert daemon.metric("nodeproxy_registry_problems", registry="file") == 1
    assert daemon.metric("nodeproxy_registry_synced", registry="file") == 0
    daemon.serve(kit.service("shop/web", []))
    wait_for_state(kit, daemon, "synced")
    assert served(kit, port) == "503"


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "services:\n"])
def test_a_file_without_content_says_nothing(single: Any, kit: Any, text: str):
    """As a disk that ran full leaves it: unlike ``services: []`` that is never believed."""
    daemon, port, _ = single
    daemon.replace(text)
    registry = kit.eventually(lambda: (r := daemon.registry()).problems and r)
    print(registry)
    assert served(kit, port) == "one"
    assert registry.services == 1
    assert "services.yaml" in registry.problems[0].source
    assert daemon.metric("nodeproxy_registry_problems", registry="file") == 1
    daemon.serve(kit.service("shop/web", []))
    kit.eventually(lambda: served(kit, port) == "503")
    assert not daemon.registry().problems


def test_an_emptied_file_is_believed_after_the_configured_time(
    daemon: Any, backends: Any, kit: Any
):
    port = daemon.listen("shop/web")
    registry = {"kind": "file", "path": "services.yaml", "keep_on_empty_for": "1s"}
    daemon.configure(registries=[registry])
    daemon.serve(kit.service("shop/web", [backends("one")]))
    daemon.start()
    assert served(kit, port) == "one"
    daemon.replace("services: []\n")
    kit.eventually(lambda: served(kit, port) == "reset")
    assert daemon.log("empty answer is believed now")
    assert wait_for_state(kit, daemon, "synced").services == 0


def test_a_deleted_file_is_an_accident(single: Any, kit: Any):
    daemon, port, one = single
    daemon.services_path.unlink()
    registry = wait_for_state(kit, daemon, "stale")
    assert "services.yaml: No such file" in registry.last_error
    assert served(kit, port) == "one"
    assert daemon.metric("nodeproxy_registry_synced", registry="file") == 0
    daemon.serve(kit.service("shop/web", [one]))
    wait_for_state(kit, daemon, "synced")
    assert served(kit, port) == "one"


def test_a_config_map_is_swapped(daemon: Any, backends: Any, kit: Any):
    """The kubelet's way: files are links through ``..data``, a link that is replaced."""
    port = daemon.listen("shop/web")
    folder = daemon.folder / "services"

    def version(name: str, backend: Any) -> None:
        here = folder / f"..{name}"
        here.mkdir(parents=True)
        text = json.dumps({"services": [kit.service("shop/web", [backend])]})
        (here / "services.yaml").write_text(text)
        (folder / "..data_tmp").symlink_to(here.name)
        (folder / "..data_tmp").replace(folder / "..data")

    version("one", backends("one"))
    (folder / "services.yaml").symlink_to("..data/services.yaml")
    daemon.configure(registries=[{"kind": "file", "path": "services"}])
    daemon.start()
    assert served(kit, port) == "one"
    version("two", backends("two"))
    kit.eventually(lambda: served(kit, port) == "two")
    assert daemon.status().endpoints == 1
    assert daemon.registry().state == "synced"


# -- what survives a restart ------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_without_the_file_serves_the_last_good_state(single: Any, kit: Any, end: Any):
    daemon, port, _ = single
    state = daemon.folder / "state" / "registry-file.state"
    kit.eventually(state.exists)
    daemon.signal(end)
    daemon.wait()
    daemon.services_path.unlink()
    daemon.start()
    assert served(kit, port) == "one"
    registry = daemon.registry()
    assert registry.state == "restored"
    assert registry.from_disk
    assert not registry.synced
    assert registry.age_seconds is not None
    assert registry.age_seconds > 0
    assert "saved on disk" in registry.meaning
    assert daemon.metric("nodeproxy_registry_age_seconds", registry="file") > 0
    shown = daemon.cli("registries")
    assert "restored" in shown.stdout
    answer = json.loads(
        daemon.cli("explain", "GET", f"http://127.0.0.1:{port}/", "-o", "json").stdout
    )
    assert "saved on disk" in answer["notes"][0]
    # The file comes back with another truth.
    daemon.serve(kit.service("shop/web", []))
    wait_for_state(kit, daemon, "synced")
    assert served(kit, port) == "503"


def test_a_damaged_state_is_ignored_as_a_whole(single: Any, kit: Any):
    daemon, port, _ = single
    state = daemon.folder / "state" / "registry-file.state"
    kit.eventually(state.exists)
    assert daemon.stop() == 0
    content = state.read_bytes()
    state.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    daemon.services_path.unlink()
    daemon.start()
    assert served(kit, port) == "reset"
    assert "damaged" in daemon.log("saved state ignored")[0]["error"]
    assert daemon.registry().state == "failed"


# -- a disk that takes nothing ----------------------------------------------------------------


def many(kit: Any, one: Any, count: int) -> list[Any]:
    fillers = [kit.service(f"shop/s{i}", [f"192.0.2.{i % 250}:80"]) for i in range(count)]
    return [kit.service("shop/web", [one]), *fillers]


@pytest.mark.netns
def test_a_full_disk_costs_nothing_but_the_next_restart(make_daemon: Any, backends: Any, kit: Any):
    def on_a_tiny_disk(command: list[str]) -> list[str]:
        mount = f"mount -t tmpfs -o size=16k,mode=700 none {daemon.folder}/state"
        return ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]

    daemon = make_daemon(on_a_tiny_disk)
    (daemon.folder / "state").mkdir()
    one, other = backends("one"), backends("other")
    port = daemon.listen("shop/web")
    daemon.serve(*many(kit, one, 500))
    daemon.start()
    assert served(kit, port) == "one"
    registry = kit.eventually(lambda: (r := daemon.registry()).save_error and r)
    assert "the last good state cannot be kept" in registry.save_error
    assert "No space left on device" in registry.save_error
    assert registry.state == "synced"
    assert daemon.metric("nodeproxy_registry_problems", registry="file") == 1
    assert daemon.log("saving failed")[0]["level"] == "error"
    assert "No space left" in daemon.cli("status").stdout
    # The change of a service reaches traffic all the same.
    daemon.serve(*many(kit, other, 500))
    kit.eventually(lambda: served(kit, port) == "other")
    assert daemon.status().ready
    # Once there is room, it is saved again: the tiny disk is seen through the process.
    daemon.serve(*many(kit, one, 5))
    kit.eventually(lambda: served(kit, port) == "one")
    state = f"/proc/{daemon.running.pid}/root{daemon.folder}/state/registry-file.state"
    kit.eventually(lambda: daemon.registry().save_error == "" and os.path.exists(state), 30)
    assert daemon.metric("nodeproxy_registry_problems", registry="file") == 0
