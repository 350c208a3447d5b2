"""Ctrl-C in the midst of a verb: exit code 130, a line that says what remains, and nothing half done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from journal.storage import RealStorage
from journal.verify import verify
from recovery.cli.app import Verb, VerbGroup
from recovery.cli.verbs import VERBS, load
from tests.commands import ENVIRONMENT, ROOT, process, small_history
from tests.packs import write_segments

CHANGES = {
    "init", "append", "scrub", "compact", "recover", "adopt", "checkpoint create", "checkpoint prune", "drill",
    "backup", "replay", "revert", "import mcp", "embed", "verify",
}  # fmt: skip
"""The verbs that may be cut while they change something. The others change one event at most, or run until Ctrl-C."""


def verbs() -> dict[str, Verb]:
    found: dict[str, Verb] = {}
    for name in VERBS:
        command = load(name)
        inner = command.commands if isinstance(command, VerbGroup) else {}
        found |= {f"{name} {each}": verb for each, verb in inner.items() if isinstance(verb, Verb)}
        if isinstance(command, Verb):
            found[name] = command
    return found


def test_each_verb_that_changes_something_says_what_remains() -> None:
    assert {name for name, verb in verbs().items() if verb.cut} == CHANGES


def cut(data: Path, module: str, function: str, number: int, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, with a SIGINT before the given call of one of its functions."""
    source = f"""
import os, signal, sys
import {module} as module
inner, calls = module.{function}, []
def cut(*arguments, **settings):
    calls.append(1)
    if len(calls) == {number}:
        os.kill(os.getpid(), signal.SIGINT)
    return inner(*arguments, **settings)
module.{function} = cut
from recovery.cli import main
sys.argv[1:] = {["--data", str(data), *words]!r}
main()
"""
    return subprocess.run(
        [sys.executable, "-c", source], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    small_history(tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("function", ["publish", "unpack", "encode_pack"])
def test_packing_goes_on_where_it_was_cut(tmp_path: Path, function: str) -> None:
    data = tmp_path / "data"
    assert process(data, "init").returncode == 0
    storage, directory = RealStorage(), str(data / "journal")
    write_segments(storage, directory, 150, 25)
    done = cut(data, "journal.packing", function, 2, "compact")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "journal: interrupted - what is packed stays packed; journal compact goes on\n"
    names = os.listdir(f"{directory}/segments")
    assert sum(name.endswith(".pack") for name in names) == 1
    assert not [name for name in names if name.endswith(".tmp")]
    assert verify(storage, directory).exit_code == 0
    assert process(data, "compact").returncode == 0
    assert not verify(storage, directory).findings


@pytest.mark.parametrize(
    ("module", "function", "words"),
    [
        ("recovery.log.backup", "back_up", ("backup", "DIR")),
        ("recovery.restore", "build_state", ("replay", "--until", "3", "-o", "DIR")),
        ("recovery.log.scrub", "_read", ("scrub",)),
        ("recovery.comparing", "build_state", ("diff", "1", "now")),
    ],
)
def test_what_was_begun_is_not_there_and_the_same_command_does_it(
    data: Path, tmp_path: Path, module: str, function: str, words: tuple[str, ...]
) -> None:
    target = tmp_path / "target"
    command = [str(target) if word == "DIR" else word for word in words]
    done = cut(data, module, function, 1, *command, "--json")
    assert done.returncode == 130, done
    (line,) = done.stdout.splitlines()
    error = json.loads(line)["error"]
    assert (error["code"], error.get("hint")) == ("interrupted", verbs()[words[0]].cut)
    assert process(data, *command).returncode == 0
    assert process(data, "check").returncode == 0
    assert sorted(os.listdir(tmp_path)) == sorted({"data", *(["target"] if "DIR" in words else [])})
