"""The frame of the `journal` command: help, options, errors, exit codes. Verbs have tests of their own."""

from __future__ import annotations

import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import click
import pytest

from journal import __version__
from journal.errors import AmbiguousTail, Corrupt, Diverged, JournalError, Locked, NotAJournal, Refused, Unsupported
from recovery.cli import app as frame
from recovery.cli.app import App, Verb, VerbGroup, cli, run
from recovery.cli.verbs import EXIT_CODES, VERBS, load
from tests.command import ENVIRONMENT, ROOT, journal, probe


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Puts a verb `probe` into the command for one test, and runs command lines in this process."""

    def put(function, *params: click.Parameter) -> None:
        command = Verb("probe", callback=click.pass_obj(function), params=list(params))
        monkeypatch.setitem(VERBS, "probe", "misbehave")
        monkeypatch.setattr(frame, "load", lambda name: command)

    return put


# -- help -------------------------------------------------------------------------------------------------------------


def test_help_lists_every_verb_and_every_exit_code():
    done = journal("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for verb_name, line in VERBS.items():
        assert f"  {verb_name} " in done.stdout
        assert line in done.stdout
    for code in EXIT_CODES:
        assert f"\n  {code} " in done.stdout


def test_help_imports_no_verb_and_nothing_slow():
    listed = "import sys; from recovery.cli.app import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", listed], capture_output=True, text=True, env=ENVIRONMENT, check=True, timeout=60
    )
    loaded = set(done.stderr.split())
    assert "click" in loaded
    assert not {f"recovery.cli.{name.replace('-', '_')}" for name in VERBS} & loaded
    assert not {"rich", "yaml", "sqlite3", "msgspec", "anyio", "torch", "numpy", "replay"} & loaded


def test_no_verb_is_a_usage_error_that_shows_the_help():
    done = journal()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Verbs:" in done.stderr


def test_version_needs_no_installation():
    assert journal("--version").stdout == f"journal {__version__}\n"


def walk(command: click.Command, path: tuple[str, ...] = ()):
    yield path, command
    if isinstance(command, click.Group) and command is not cli:
        for name, each in command.commands.items():
            yield from walk(each, (*path, name))


def every_verb():
    for name in VERBS:
        yield from walk(load(name), (name,))


def test_the_table_and_the_files_agree():
    files = {path.stem for path in (ROOT / "recovery" / "cli").glob("*.py")}
    named = {name.replace("-", "_") + ("_" if name == "import" else "") for name in VERBS}
    assert named <= files
    with_command = {
        stem
        for stem in files
        if "\ndef command(" in (ROOT / "recovery" / "cli" / f"{stem}.py").read_text()
    }
    assert with_command == named


def test_every_verb_teaches():
    for path, command in every_verb():
        assert isinstance(command, Verb | VerbGroup), path
        assert command.help, path
        assert command.examples or isinstance(command, VerbGroup), path


def test_every_example_parses():
    examples = [example for _, command in every_verb() if isinstance(command, Verb) for example in command.examples]
    assert examples
    for example in examples:
        command_line = re.split(r" (?:>>?|<|\||&&) ", example)
        words = shlex.split(next(part for part in command_line if part.startswith("journal ")), comments=True)
        with cli.make_context("journal", words[1:], obj=App()) as context:
            name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
            while isinstance(command, click.Group):
                with command.make_context(name, rest, parent=context) as inner:
                    name, command, rest = command.resolve_command(inner, [*inner._protected_args, *inner.args])
            with command.make_context(name, rest, parent=context):
                pass


# -- options before and after the verb --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data", "D", "--config", "C", "--json", "--no-color", "probe"],
        ["probe", "--data", "D", "--config", "C", "--json", "--no-color"],
        ["--data", "other", "--json", "probe", "--no-color", "--config=C", "--data=D"],
    ],
)
def test_the_options_of_every_verb_stand_before_or_after_it(verb, arguments):
    seen = []
    verb(lambda app: seen.append((app.data_option, app.config_option, app.json, app.out.color)))
    assert run(arguments) == 0
    assert seen == [("D", "C", True, False)]


def test_options_not_given_change_nothing(verb, monkeypatch):
    monkeypatch.delenv("JOURNAL_DATA", raising=False)
    seen = []
    verb(lambda app: seen.append((app.data_option, app.config_option, app.json, app.out.color)))
    assert run(["--json", "probe"]) == run(["probe"]) == 0
    assert seen == [(None, None, True, True), (None, None, False, True)]


def test_the_environment_names_the_directory_and_the_option_comes_before_it(verb, monkeypatch):
    monkeypatch.setenv("JOURNAL_DATA", "E")
    seen = []
    verb(lambda app: seen.append(app.data_option))
    assert run(["probe"]) == run(["--data", "D", "probe"]) == run(["probe", "--data", "D"]) == 0
    assert seen == ["E", "D", "D"]


def test_options_reach_a_verb_of_a_group(monkeypatch):
    seen = []
    group = VerbGroup("probe")
    group.add_command(Verb("sub", callback=click.pass_obj(lambda app: seen.append((app.data_option, app.json)))))
    monkeypatch.setitem(VERBS, "probe", "misbehave")
    monkeypatch.setattr(frame, "load", lambda name: group)
    assert run(["probe", "--data", "D", "sub", "--json"]) == 0
    assert run(["probe", "sub", "--json", "--data", "D"]) == 0
    assert seen == [("D", True)] * 2


# -- the data directory -----------------------------------------------------------------------------------------------


def test_without_a_name_the_current_directory_must_hold_a_journal(tmp_path: Path):
    done = probe("print(app.data.root)", cwd=tmp_path)
    assert done.returncode == NotAJournal.exit_code == 10
    assert done.stderr == (
        f"journal: no journal here [{tmp_path}] - name one with --data DIR, or begin one: journal init --data DIR\n"
    )
    (tmp_path / "journal" / "segments").mkdir(parents=True)
    assert probe("print(app.data.root)", cwd=tmp_path).stdout == f"{tmp_path}\n"


def test_the_journals_place_may_come_from_the_configuration(tmp_path: Path):
    (tmp_path / "journal.yaml").write_text("paths: {journal: log}")
    (tmp_path / "log").mkdir()
    assert probe("print(app.data.layout.journal)", cwd=tmp_path).stdout == f"{tmp_path}/log\n"


def test_a_bad_configuration_is_one_line(tmp_path: Path):
    (tmp_path / "journal.yaml").write_text("disk:\n  reserve: 5\n")
    done = probe("app.data", "--data", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == (
        f"journal: line 2: unknown key 'disk.reserve' [{tmp_path}/journal.yaml] - did you mean disk.reserve_bytes?\n"
    )


def test_an_empty_name_is_a_usage_error():
    done = probe("app.data", "--data", "")
    assert (done.returncode, done.stderr) == (2, "journal: --data is empty - name a directory\n")


# -- errors -----------------------------------------------------------------------------------------------------------

ERRORS: list[JournalError] = [
    Refused("already_exists", "entity 'Acme' is there"),
    NotAJournal("none", path="/d"),
    Locked("held by 42"),
    Corrupt("payload CRC does not match", path="/d/journal/segments/1", offset=4096, hint="journal verify"),
    AmbiguousTail("complete but wrong"),
    Diverged("two histories", seq=9),
    Unsupported("version 9"),
    JournalError("plainly"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_a_declared_error_is_one_line_and_its_exit_code(verb, capsys, error):
    def fail(app):
        raise error

    verb(fail)
    assert run(["probe"]) == error.exit_code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"journal: {error}\n")

    assert run(["probe", "--json"]) == error.exit_code
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"error": error.to_json()}, "")
    assert error.exit_code in EXIT_CODES


def test_an_error_stays_one_line_whatever_is_in_it(verb, capsys):
    def fail(app):
        raise JournalError("name 'a\nb\x1b[2Jc\x00\u202e'", path="/d/x\r\ny")

    verb(fail)
    assert run(["probe"]) == 1
    assert capsys.readouterr().err == "journal: name 'a b\\x1b[2Jc\\x00\\u202e' [/d/x\\x0d y]\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "No such command 'nope'"),
        (["completoin"], "No such command 'completoin'. Did you mean 'completion'?"),
        (["--nope"], "No such option '--nope'"),
        (["completion", "--jsn"], "No such option '--jsn'. Did you mean '--json'?"),
        (["completion"], "Missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish"),
        (["completion", "tcsh"], "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
        (["completion", "bash", "zsh"], "Got unexpected extra argument"),
        (["--data"], "Option '--data' requires an argument"),
    ],
)
def test_misuse_is_one_line_and_exit_2(capsys, arguments, says):
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert "--help" in err

    assert run([*arguments, "--json"] if arguments != ["--data"] else ["--json", "--data"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "usage"
    assert says in error["message"]


def test_a_file_that_cannot_be_read_is_one_line(verb, capsys, tmp_path):
    verb(lambda app: (tmp_path / "none").read_bytes())
    assert run(["probe"]) == 1
    assert capsys.readouterr().err.startswith(f"journal: No such file or directory [{tmp_path}/none] - check")


def test_a_verb_returns_its_exit_code(verb):
    verb(lambda app: 3)
    assert run(["probe"]) == 3


def test_what_sqlite_says_of_a_file_is_one_line(verb, capsys, tmp_path):
    """Scenario: memory.db is damaged under a verb that reads it, and nothing on the way declared that."""
    (tmp_path / "memory.db").write_bytes(b"no database" * 1000)

    def read(app):
        sqlite3.connect(app.data.layout.memory_db).execute("SELECT * FROM entities")

    verb(read)
    assert run(["probe", "--data", str(tmp_path)]) == 12
    assert capsys.readouterr().err == (
        f"journal: the database is damaged: file is not a database [{tmp_path}/memory.db] - run: journal check\n"
    )


def test_a_fault_of_the_program_is_not_hidden(verb):
    """A bug must be seen with its traceback, not as a polite line that blames the user."""
    verb(lambda app: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run(["probe"])
    verb(lambda app: sqlite3.connect(":memory:").execute("SELECT ?", ()))
    with pytest.raises(sqlite3.ProgrammingError):
        run(["probe"])


# -- completion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell):
    done = journal("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_JOURNAL_COMPLETE={shell}_complete" in done.stdout
    assert json.loads(journal("completion", shell, "--json").stdout)["script"] == done.stdout


def test_options_of_every_verb_and_places_are_completed(monkeypatch: pytest.MonkeyPatch, capsys):
    """Behind a verb, whose help leaves them out, and where a file or a directory belongs."""

    def completed(*words: str) -> list[str]:
        monkeypatch.setenv("_JOURNAL_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", " ".join(["journal", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        run([])
        return capsys.readouterr().out.splitlines()

    assert completed("log", "--da") == ["plain,--data"]
    assert completed("checkpoint", "create", "--no") == ["plain,--no-color"]
    for words in (("--data", "/t"), ("log", "--data", "/t"), ("backup", "/t"), ("replay", "-o", "/t")):
        assert completed(*words) == ["dir,/t"], words
    for words in (("head", "-o", "x"), ("verify", "--receipt", "x"), ("--config", "x"), ("import", "mcp", "x")):
        assert completed(*words) == ["file,x"], words


def test_the_bash_script_completes_verbs(tmp_path: Path):
    """Scenario: the script is sourced as a user would, and asked for `journal compl<TAB>`."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    command = bin_dir / "journal"
    command.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -m recovery \"$@\"\n")
    command.chmod(0o755)
    (tmp_path / "script").write_text(journal("completion", "bash").stdout)
    asked = """
source ./script
COMP_WORDS=(journal compl); COMP_CWORD=1
_journal_completion journal compl journal
echo "${COMPREPLY[*]}"
"""
    done = subprocess.run(
        ["bash", "-c", asked],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PATH": f"{bin_dir}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.strip() == "completion"
