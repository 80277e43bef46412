"""The admin client: whatever goes wrong becomes an error that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from nodeproxy.admin.client import AdminError, Client


def client(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client("/run/x.sock", transport=httpx.MockTransport(answer))


def failing(exc: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        raise exc

    return answer


@pytest.mark.parametrize(
    ("exc", "message", "hint", "absent"),
    [
        (PermissionError(13, "denied"), "no permission to use", "sudo", False),
        (FileNotFoundError(2, "none"), "there is no socket", "systemctl status", True),
        (NotADirectoryError(20, "none"), "there is no socket", "systemctl status", True),
        (ConnectionRefusedError(111, "refused"), "left behind", "systemctl start", True),
        (BlockingIOError(11, "again"), "no daemon answers", "stuck", False),
    ],
)
def test_why_nobody_answers(exc: Exception, message: str, hint: str, absent: bool) -> None:
    error = Client("/run/x.sock", transport=httpx.MockTransport(failing(exc)))._no_daemon(exc)
    assert message in str(error)
    assert "/run/x.sock" in str(error)
    assert hint in error.hint
    assert error.absent is absent


@pytest.mark.parametrize(
    ("exc", "message", "hint"),
    [
        (httpx.ReadTimeout("slow"), "did not answer in time", "stuck"),
        (httpx.RemoteProtocolError("half"), "broke off its answer", "journalctl"),
    ],
)
def test_a_daemon_that_fails_midway(exc: Exception, message: str, hint: str) -> None:
    with client(failing(exc)) as asking:
        for ask in (asking.status, lambda: list(asking.metrics())):
            with pytest.raises(AdminError, match=message) as caught:
                ask()
            assert hint in caught.value.hint


@pytest.mark.parametrize("content", [b"[]", b"nonsense", b'{"error": 1}'])
def test_answers_that_are_no_answers(content: bytes) -> None:
    with client(lambda request: httpx.Response(200, content=content)) as asking:
        with pytest.raises(AdminError, match="cannot understand") as caught:
            asking.status()
        assert "same version" in caught.value.hint
    with client(lambda request: httpx.Response(500, content=content)) as asking:
        for ask in (asking.status, lambda: list(asking.metrics())):
            with pytest.raises(AdminError, match="answered 500") as caught:
                ask()
            assert caught.value.status == 500


def test_newer_daemons_may_say_more() -> None:
    content = b'[{"name": "a/b", "vips": [], "something_new": {"x": 1}}]'
    with client(lambda request: httpx.Response(200, content=content)) as asking:
        assert asking.services()[0].name == "a/b"


def test_proxies_of_the_environment_are_not_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with pytest.raises(AdminError, match="no socket"), Client(tmp_path / "s") as asking:
        asking.status()
