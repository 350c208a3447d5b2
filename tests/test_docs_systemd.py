"""The units in docs/systemd are ones that systemd takes, and say what the docs promise of them."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from recovery.cli.app import App, cli
from recovery.surroundings import OPEN_FILES_NEEDED
from tests.commands import ENVIRONMENT, ROOT, process, small_history

UNITS = sorted(path for path in (ROOT / "docs/systemd").iterdir() if path.suffix in (".service", ".timer"))


def command_line(name: str, key: str) -> list[str]:
    """The words of the command that a unit runs, without the shell around it that lets an exit code pass."""
    words = shlex.split(unit(name)["Service"][key])
    return shlex.split(words[2].partition("||")[0]) if words[:2] == ["/bin/sh", "-c"] else words


def unit(name: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read(ROOT / "docs/systemd" / name)
    return parsed


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not at hand (apt install systemd)"
)
def test_systemd_takes_every_unit(tmp_path):
    """The programs are put where the unit names them, so that nothing but the unit itself can be complained of."""
    program = tmp_path / "bin" / "journal"  # a clone may lie under a name that a unit would have to quote
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m recovery "$@"\n')
    program.chmod(0o755)
    for path in UNITS:
        text = path.read_text().replace("/usr/local/bin/journal", str(program))
        (tmp_path / path.name).write_text(text.replace("User=agents\nGroup=agents\n", ""))
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / path.name) for path in UNITS)],
        capture_output=True, text=True, check=False, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )  # fmt: skip
    ours = [
        line for line in ran.stderr.splitlines() if str(tmp_path) in line or "agent-server" in line or "drill" in line
    ]
    assert ours == []
    assert ran.returncode == 0, ran.stderr


def test_the_hardened_unit_says_what_is_promised():
    service = unit("agent-server.service")["Service"]
    wanted = {
        "Type": "notify", "NoNewPrivileges": "true", "ProtectSystem": "strict", "WatchdogSec": "60",
        "ReadWritePaths": "/var/lib/agents", "Restart": "on-failure",
    }  # fmt: skip
    assert {key: service[key] for key in wanted} == wanted
    assert int(service["LimitNOFILE"]) >= OPEN_FILES_NEEDED
    assert int(service["TimeoutStartSec"]) > 60, "a rebuild asks for 60 s more at a time"


COMMANDS = [("agent-server.service", "ExecStartPre"), ("agent-server.service", "ExecStart"),
            ("journal-drill.service", "ExecStart")]  # fmt: skip


@pytest.mark.parametrize(("name", "key"), COMMANDS)
def test_its_command_lines_are_ones_that_the_command_takes(name, key):
    words = command_line(name, key)
    assert words[0] == "/usr/local/bin/journal"
    ran = CliRunner().invoke(cli, [*words[1:2], "--help"], obj=App())
    assert ran.exit_code == 0
    for word in words[2:]:
        if word.startswith("--") and word != "--data":
            assert word in ran.output, f"{word} is no option of {words[1]}"


def test_exec_start_pre_on_a_healthy_state_does_nothing_and_exits_0(tmp_path):
    small_history(tmp_path / "data")
    words = command_line("agent-server.service", "ExecStartPre")[1:-2]
    before = process(tmp_path / "data", "log", "--json").stdout
    assert process(tmp_path / "data", *words).returncode == 0
    assert process(tmp_path / "data", "log", "--json").stdout == before


def test_a_rebuild_before_the_start_asks_the_manager_for_more_time(tmp_path):
    """A real manager's socket: without it TimeoutStartSec would kill a long rebuild, again and again."""
    small_history(tmp_path / "data")
    (tmp_path / "data" / "memory-000001.db").write_bytes(b"rubbish")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        environment = {**ENVIRONMENT, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        ran = process(tmp_path / "data", "recover", "all", "--yes", env=environment)
        assert ran.returncode == 0, ran.stderr
        assert manager.recv(1000) == b"EXTEND_TIMEOUT_USEC=60000000"
