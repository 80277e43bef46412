"""What the demo writes and says, without playing it."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from nodeproxy.config import load
from nodeproxy.demo.ending import judgement, nothing_left, removed, summary
from nodeproxy.demo.interruption import Interrupted, Interruption
from nodeproxy.demo.load import Result
from nodeproxy.demo.narrator import Narrator
from nodeproxy.demo.places import RootStage, UserStage
from nodeproxy.demo.processes import birth
from nodeproxy.demo.report import Moments, Phase, Verdict
from nodeproxy.demo.stage import BackEnd, Stage
from registry.file.formats import read


@pytest.fixture(params=[RootStage, UserStage])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    made: Stage = request.param()
    yield made
    made.close()


def narrator() -> tuple[Narrator, io.StringIO]:
    text = io.StringIO()
    return Narrator(Console(file=text, width=100, highlight=False)), text


def test_the_configuration_is_right(stage: Stage) -> None:
    if isinstance(stage, UserStage):
        stage.build()  # chooses a port, no more
    config = load(stage.write_config())
    assert config.warnings == ()
    assert config.base_dir == str(stage.folder)
    assert (config.interception.mode == "iptables") == (stage.kind == "root")
    assert bool(config.listeners) == (stage.kind == "user")
    assert len(os.fsencode(config.admin.socket)) < 108
    for address, port in stage.targets():
        assert address in (*stage.vips, "127.0.0.1")
        assert port > 0


def test_the_registry_file_is_right(stage: Stage) -> None:
    backends = (
        BackEnd("a", "", (("10.244.1.12", 8080), ("fd00:244:1::12", 8080))),
        BackEnd("b", "", (("10.244.2.12", 8081),)),
    )
    stage.backends = backends
    stage.register(backends)
    content = read((stage.folder / "services.yaml").read_text(), "services.yaml")
    assert not content.problems
    assert "shop/web" in str(content)
    assert "10.244.2.12" in str(content)
    stage.register(backends[:1])
    assert "10.244.2.12" not in (stage.folder / "services.yaml").read_text()


def test_a_stage_that_was_never_built_leaves_nothing(stage: Stage) -> None:
    folder = stage.folder
    assert folder.is_dir()
    assert any(str(folder) in line for line in stage.leftovers())
    stage.close()
    assert stage.leftovers() == []
    assert not folder.exists()


def test_logs_are_kept(stage: Stage, tmp_path: Path) -> None:
    (stage.folder / "proxy.log").write_text("one\ntwo\nthree\n")
    (stage.folder / "state").mkdir()
    stage.results.append(
        Result(
            client="c", started=1, ended=2, target="t", kept=False, outcome="refused", detail="no"
        )
    )
    stage.keep_logs(tmp_path / "deep" / "logs")
    kept = {path.name: path.read_text() for path in (tmp_path / "deep" / "logs").iterdir()}
    assert kept["proxy.log"] == "one\ntwo\nthree\n"
    assert '"outcome":"refused"' in kept["requests.jsonl"]
    assert stage.tail(2) == "two\nthree"


def test_a_temporary_folder_with_a_long_name_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/" + "long" * 20)
    stage = UserStage()
    try:
        assert len(str(stage.socket)) < 100
    finally:
        stage.close()


def test_lines_are_plain_where_there_is_no_terminal() -> None:
    speaker, text = narrator()
    speaker.act("A node is built")
    speaker.say("word " * 40)
    speaker.quote("as it is  [x]\n\nend\n")
    speaker.command("nodeproxy", "status")
    speaker.table(["PHASE", "N"], [["one", "1"], ["two and more", "22"]])
    with speaker.waiting(lambda: "never shown"):
        pass
    lines = text.getvalue().splitlines()
    assert lines[1] == "== 1. A node is built =="
    assert "\x1b" not in text.getvalue()
    assert "never shown" not in text.getvalue()
    assert all(len(line) <= 100 and line == line.rstrip() for line in lines)
    assert "       as it is  [x]" in lines
    assert "       $ nodeproxy status" in lines
    assert lines[-3:] == [
        "       PHASE          N",
        "       one            1",
        "       two and more  22",
    ]


def test_a_terminal_sees_what_is_awaited() -> None:
    text = io.StringIO()
    speaker = Narrator(Console(file=text, force_terminal=True, width=80))
    speaker.act("Title")
    with speaker.waiting(lambda: "until it is ready"):
        pass
    assert "until it is ready" in text.getvalue()


def test_the_ending_says_what_did_not_hold() -> None:
    speaker, text = narrator()
    removed(speaker, ["folder /tmp/x"])
    verdicts = [Verdict("it rained", True), Verdict("it stopped", False, "it did not")]
    assert judgement(speaker, verdicts, "last words", None) == 1
    said = text.getvalue()
    for part in (
        "LEFT BEHIND: folder /tmp/x",
        "held  it rained",
        "NOT HELD  it stopped: it did not",
        "--keep-logs",
        "last words",
    ):
        assert part in said
    assert judgement(speaker, verdicts, "", "/var/log/demo") == 1
    assert "/var/log/demo" in text.getvalue()


def test_the_ending_of_a_good_story() -> None:
    speaker, text = narrator()
    removed(speaker, [])
    found = [Phase("all is well", 0.0), Phase("the proxy is dead", 5.0)]
    found[0].results.append(
        Result("c", 1.0, 1.002, "t", kept=False, outcome="ok", backend="a", via=True)
    )
    summary(speaker, found, Moments(intercepted=True), ["a", "b"])
    assert judgement(speaker, [nothing_left([])], "", None) == 0
    said = text.getvalue()
    assert "nothing is left" in said
    assert "  none" in said
    assert "100%" in said
    assert "Everything held" in said


def test_a_failure_stands_below_the_table() -> None:
    speaker, text = narrator()
    phase = Phase("all is well", 0.0)
    phase.results.append(Result("c", 1.0, 1.002, "t", kept=False, outcome="timeout"))
    summary(speaker, [phase], Moments(intercepted=True), ["a"])
    assert "all is well: 1 x c: timeout: NOT EXPLAINED" in text.getvalue()


def test_a_signal_is_a_flag_and_the_next_one_is_ignored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        interruption.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"):
            interruption.check()
        os.kill(os.getpid(), signal.SIGINT)  # would be a KeyboardInterrupt
        assert interruption.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) == before


def test_birth_tells_processes_apart() -> None:
    assert birth(os.getpid()).isdigit()
    with pytest.raises(OSError, match="No such file"):
        birth(2**22 + 1)
