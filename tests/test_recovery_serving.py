"""A server crashes and its state is damaged: recovery stops it, repairs, starts it, and asks it how it is.

Real servers throughout: docs/examples/server.py under a command and an HTTP control, and `journal serve`.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from recovery.data import Data
from recovery.rows import first
from recovery.serving.around import stopped
from recovery.serving.control import Command as CommandControl
from recovery.serving.control import ControlFailed, Systemd
from recovery.serving.health import HttpHealth, SocketHealth, facts_of, wait_for_health
from recovery.serving.holding import users_of
from recovery.tables.serving import SERVING, ServingFacts
from tests import daemons
from tests.commands import ENVIRONMENT, SMALL, Command, arguments, small_history
from tests.holders import server


@pytest.fixture
def journal(tmp_path, capsys):
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


def configure(data: Path, **server: Any) -> None:
    (data / "journal.yaml").write_text(yaml.safe_dump({"server": server}))


def damage(data: Path) -> None:
    """Rows are changed behind the journal's back; SQLite finds nothing wrong with the file."""
    with closing(sqlite3.connect(data / "memory.db", isolation_level=None)) as connection:
        connection.execute("UPDATE observations SET content = content || ', or not'")


def commanded(data: Path, place: Path, port: int, **more: Any) -> Path:
    pid_file = place / "server.pid"
    command = daemons.example_server(data, port)
    configure(
        data, control="command", start=daemons.words("start", pid_file, command),
        stop=daemons.words("stop", pid_file), health=f"http://127.0.0.1:{port}/api/v1/health",
        timeout_seconds=60, interval_seconds=0.05, **more,
    )  # fmt: skip
    return pid_file


# -- the whole way ----------------------------------------------------------------------------------------------------


def test_a_server_is_killed_its_memory_damaged_and_a_command_brings_it_back(journal, tmp_path):
    """Scenario: SIGKILL, rows altered, the server came up again by itself; the operator runs one command."""
    port = daemons.free_port()
    pid_file = commanded(journal.data, tmp_path, port)
    command = daemons.example_server(journal.data, port)
    with daemons.gone(pid_file):
        daemons.start(pid_file, command)
        wait_for_health(HttpHealth(f"http://127.0.0.1:{port}/api/v1/health"), ServingFacts(), seconds=60, interval=0.05)
        daemons.stop(pid_file, signal.SIGKILL)
        daemons.start(pid_file, command)
        wait_for_health(HttpHealth(f"http://127.0.0.1:{port}/api/v1/health"), ServingFacts(), seconds=60, interval=0.05)
        first_pid = daemons.pid_of(pid_file)
        damage(journal.data)
        assert journal("check").code == 1
        ran = journal("recover", "all", "--yes", "--json")
        assert ran.code == 0, ran
        told = ran.json()
        assert told["server"]["stopped"]
        assert told["server"]["started"]
        assert told["server"]["verdict"]["case"] == "healthy"
        assert told["server"]["health"]["agents"] == 1
        assert daemons.pid_of(pid_file) not in (0, first_pid)
        assert "stopping the server" in ran.err
    steps = [each["event"] for each in journal("log", "--type", "recovery.step_completed", "--json").json_lines()]
    assert steps[-1]["component"] == "server"
    assert steps[-1]["counts"] == {"stopped": 1, "started": 1}
    assert steps[-1]["recovery_id"] == told["result"]["recovery_id"]
    assert journal("check").code == 0


def test_over_http_with_a_token_and_the_control_socket_for_health(journal, tmp_path):
    """The same by a supervisor's POSTs; a wrong token stops nothing and changes nothing."""
    pid_file, port = tmp_path / "server.pid", daemons.free_port()
    command = daemons.example_server(journal.data, port)
    (journal.data / "token").write_text("s3cret-s3cret-s3cret\n")
    with daemons.gone(pid_file), daemons.supervisor(pid_file, command, "s3cret-s3cret-s3cret") as (url, asked):
        urls = {"start_url": f"{url}/start", "stop_url": f"{url}/stop"}
        configure(journal.data, control="http", token_file="token", timeout_seconds=60, interval_seconds=0.05, **urls)
        damage(journal.data)
        ran = journal("recover", "all", "--yes", "--start", "--json")
        assert ran.code == 0, ran
        assert asked == ["/start"], "what did not run is not stopped"
        told = ran.json()["server"]
        assert told["verdict"]["case"] == "healthy"
        assert told["health"]["model"] in ("", "absent", "available", "loaded", "no_extra")
        damage(journal.data)
        configure(journal.data, control="http", timeout_seconds=60, **urls)  # no token
        refused = journal("recover", "all", "--yes")
        assert refused.code == 1
        assert "401" in refused.err
        assert daemons.pid_of(pid_file), "it runs as before"
        configure(journal.data, control="http", token_file="token", timeout_seconds=60, interval_seconds=0.05, **urls)
        assert journal("recover", "all", "--yes").code == 0
        assert asked[-2:] == ["/stop", "/start"]


def test_what_was_stopped_is_started_again_even_if_recovery_fails(journal, tmp_path):
    """Scenario: the log is damaged beyond repair. The server must not stay down for it, nor be restarted for ever."""
    port = daemons.free_port()
    pid_file = commanded(journal.data, tmp_path, port)
    data = Data.at(journal.data)
    control = CommandControl(data, data.config.server.start, data.config.server.stop, seconds=60)
    notes: list[str] = []
    with daemons.gone(pid_file):
        daemons.start(pid_file, daemons.example_server(journal.data, port))
        wait_for_health(SocketHealth(data), ServingFacts(), seconds=60, interval=0.05)
        before = daemons.pid_of(pid_file)

        def recover_in_vain() -> None:
            with stopped(data, control, notes.append):
                assert users_of(data) == []
                raise RuntimeError("beyond repair")

        with pytest.raises(RuntimeError, match="beyond repair"):
            recover_in_vain()
        assert daemons.pid_of(pid_file) not in (0, before)
    assert notes == ["stopping the server", "starting the server again"]


def test_a_server_that_does_not_come_up_is_told_once(journal, tmp_path):
    pid_file = tmp_path / "server.pid"
    started = tmp_path / "started"
    configure(
        journal.data, control="command", stop=["true"], timeout_seconds=0.3, interval_seconds=0.05,
        start=[sys.executable, "-c", f"open({str(started)!r}, 'a').write('x')"],
    )  # fmt: skip
    damage(journal.data)
    ran = journal("recover", "all", "--yes", "--start")
    assert ran.code == 1
    assert "does not answer" in ran.out
    assert started.read_text() == "x", "started once"
    assert journal("check").code == 0, "what was recovered stays so"
    assert not pid_file.exists()


def test_a_stop_that_does_not_stop_is_no_licence_to_swap(journal):
    """Scenario: server.stop returns at once and the server goes on writing. Nothing may be replaced under it."""
    with server(journal.data):
        configure(journal.data, control="command", start=["true"], stop=["true"], timeout_seconds=0.2)
        damage(journal.data)
        ran = journal("recover", "all", "--yes")
        assert ran.code == 1
        assert "still uses the data directory" in ran.err
        assert os.readlink(journal.data / "memory.db") == "memory-000001.db"


# -- without a control ------------------------------------------------------------------------------------------------

_HOLDS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1] if sys.argv[2] == "rw" else f"file:{sys.argv[1]}?mode=ro", uri=True)
connection.execute("SELECT count(*) FROM entities").fetchone()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(path: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


def test_without_a_control_it_refuses_while_another_process_may_write_memory_db(journal):
    damage(journal.data)
    with holding(journal.data / "memory.db", "rw") as child:
        ran = journal("recover", "all", "--yes")
        assert ran.code == 11
        assert f"process {child.pid}" in ran.err
        assert os.readlink(journal.data / "memory.db") == "memory-000001.db"
    assert journal("recover", "all", "--yes").code == 0


def test_a_reader_is_no_reason_to_refuse(journal):
    """It follows the link to the next generation at its next transaction."""
    damage(journal.data)
    with holding(journal.data / "memory.db", "ro"):
        assert journal("recover", "all", "--yes").code == 0
        assert os.readlink(journal.data / "memory.db") == "memory-000002.db"


def test_as_the_units_own_exec_start_pre_nothing_is_stopped_or_started(journal, tmp_path):
    """Scenario: the unit is activating, and its ExecStartPre recovers. Stopping the unit would end the recovery."""
    calls = tmp_path / "calls"
    fake = tmp_path / "bin" / "systemctl"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n[ "$1" = show ] && echo activating\nexit 0\n')
    fake.chmod(0o755)
    configure(journal.data, control="systemd", unit="caxton.service")
    damage(journal.data)
    environment = {**ENVIRONMENT, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    ran = subprocess.run(
        arguments(journal.data, "recover", "all", "--yes", "--json"), env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert calls.read_text().split("\n")[:-1] == ["show --property=ActiveState --value -- caxton.service"]
    assert json.loads(ran.stdout)["server"]["stopped"] is False


@pytest.mark.parametrize(("state", "running"), [("active", True), ("reloading", True), ("inactive", False),
                                                ("failed", False), ("activating", False)])  # fmt: skip
def test_what_systemd_says_of_a_unit(tmp_path, monkeypatch, state, running):
    fake = tmp_path / "systemctl"
    fake.write_text(f"#!/bin/sh\necho {state}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert Systemd("x.service").is_running() is running


def test_a_control_that_is_not_there_says_so():
    with pytest.raises(ControlFailed, match="No such file"):
        CommandControl(Data("/nowhere"), ["/no/such/program"], ["x"]).start()
    with pytest.raises(ControlFailed, match="ended with 7: gone wrong"):
        CommandControl(Data("/nowhere"), ["sh", "-c", "echo gone wrong >&2; exit 7"], ["x"]).start()
    with pytest.raises(ControlFailed, match="did not end within"):
        CommandControl(Data("/nowhere"), ["sleep", "60"], ["x"], seconds=0.1).start()


# -- what the server says ---------------------------------------------------------------------------------------------


def test_every_word_of_a_server_has_one_verdict():
    seen = set()
    words = ("", "healthy", "degraded", "failed", "told", "loaded", "loading")
    for answers, status, memory, agents, model, expected, wants in product(
        (False, True), words, words, (None, 0, 3), words, (0, 3), (False, True)
    ):
        facts = ServingFacts(
            answers=answers, status=status, memory=memory, agents=agents, model=model, agents_expected=expected,
            model_expected=wants,
        )  # fmt: skip
        row = first(SERVING, facts)
        seen.add(row.case)
        assert row.reason(facts)
        if row.health == "healthy":
            assert answers
            assert status == "healthy"
            assert agents or not expected
            assert memory in ("healthy", "told")
    assert seen == {row.case for row in SERVING}


@pytest.mark.parametrize(
    ("answer", "case"),
    [
        ({"status": "healthy", "memory_backend": "embedded", "agents": 5}, "healthy"),  # Caxton's own
        ({"status": "healthy", "memory_backend": "embedded", "agents": 0}, "no_agents"),
        ({"status": "healthy", "memory_backend": "embedded"}, "no_agents"),
        ({"status": "healthy", "agents": 5}, "memory"),
        ({"status": "healthy", "agents": 5, "components": {"memory": {"state": "failed"}}}, "memory"),
        ({"status": "healthy", "memory": "healthy", "agents": 5, "model": "missing"}, "model"),
        ({"status": 7, "memory_backend": "embedded", "agents": True}, "unwell"),
        ({}, "unwell"),
        ({"status": "degraded", "memory_backend": "embedded", "agents": 5}, "degraded"),
    ],
)
def test_what_a_server_leaves_out_is_never_taken_for_good(answer, case):
    facts = facts_of(answer, ServingFacts(agents_expected=5, model_expected=True))
    assert first(SERVING, facts).case == case


def test_a_live_hook_answers_on_its_control_socket(journal):
    with server(journal.data):
        answer = SocketHealth(Data.at(journal.data)).ask()
    assert (answer["status"], answer["memory_backend"], answer["agents"]) == ("healthy", "embedded", 1)
    assert answer["last_seq"] >= SMALL
    assert {name: each["state"] for name, each in answer["components"].items()} == dict.fromkeys(
        ("journal", "memory", "agents", "model", "checkpoints"), "healthy"
    )
