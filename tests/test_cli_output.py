"""The streams of the command: closed pipes, a full disk, Ctrl-C, terminals, odd text; as a process where it matters."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess

import pytest

from recovery.cli.output import Output, printable
from tests.command import ENVIRONMENT, probe, script

# -- streams and signals ----------------------------------------------------------------------------------------------


def test_a_closed_pipe_ends_quietly():
    """Scenario: `journal log | head -1`: the reader goes while there is more to print than a pipe holds."""
    command = script("app.out.documents({'seq': seq} for seq in range(10**9))")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b'{"seq":0}\n'
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_pipe_closed_before_the_last_flush_keeps_the_outcome():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        script("app.out.line('x')\nreturn 3"), stdout=write, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False,
        timeout=60,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (3, b"")


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_failure_that_nobody_hears_is_still_a_failure(flags):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        script("raise Corrupt('bad')", *flags), stdout=write, stderr=write, env=ENVIRONMENT, check=False, timeout=60
    )
    os.close(write)
    assert done.returncode == 12


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_an_error():
    with open("/dev/full", "w") as full:
        done = probe("app.out.line('x')", stdout=full, capture_output=False, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith("journal: No space left on device")
    assert done.stderr.count("\n") == 1


def test_a_stdout_closed_from_the_start_does_not_crash():
    inner = shlex.join(script("app.out.line('x')\napp.out.raw(b'x')"))
    done = subprocess.run(["sh", "-c", f"{inner} >&-"], capture_output=True, env=ENVIRONMENT, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_ctrl_c_ends_with_130_and_one_line(flags):
    command = script("app.out.line('started')\napp.out.flush()\ntime.sleep(60)", *flags)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    if flags:
        assert (json.loads(out)["error"]["code"], err) == ("interrupted", "")
    else:
        assert (out, err) == ("", "journal: interrupted\n")


def test_any_text_can_be_printed_under_any_locale():
    name = r"'\xdc \u6f22 \x1b[31m \udcff'"
    source = f"app.out.line({name})\napp.out.document({{'name': {name}}})"
    done = probe(source, env={**ENVIRONMENT, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}, text=False)
    first, second = done.stdout.decode().splitlines()
    assert first == "Ü 漢 \\x1b[31m \\udcff"
    assert json.loads(second) == {"name": "Ü 漢 \x1b[31m \udcff"}


def test_control_characters_are_spelt_out():
    assert printable("a\tb\nc") == "a\tb\nc"
    assert printable("\x1b]0;title\x07\x9b\x7f\r\u2066") == "\\x1b]0;title\\x07\\x9b\\x7f\\x0d\\u2066"
    assert printable("שלום e\u0301 👩\u200d🚀") == "שלום e\u0301 👩\u200d🚀"


def test_columns_stay_columns(capsys):
    out = Output()
    out.table([("1", "two\nlines"), ("200", "x\x1b")], ("seq", "name"))
    out.table([])
    assert capsys.readouterr().out == "SEQ  NAME\n1    two\\nlines\n200  x\\x1b\n"


def on_a_terminal(command: list[str], answer: bytes = b"") -> tuple[bytes, int]:
    """Everything that a program prints on a terminal, and its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100"})
    if answer:
        os.write(terminal, answer)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux's end of file on a terminal whose last user has gone
            break
        if not part:
            break
        shown += part
    return shown, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


PROGRESS = """
with app.out.progress("replaying", "events") as bar:
    for done in range(3):
        bar.step("replaying", done, 3)
    bar.advance(3, 3)
    time.sleep(0.3)
print("rich" in sys.modules)
"""


def test_progress_is_drawn_on_a_terminal_only():
    done = probe(PROGRESS)
    assert (done.stdout, done.stderr) == ("False\n", "")
    shown, status = on_a_terminal(script(PROGRESS))
    assert status == 0
    assert b"replaying" in shown
    assert b"3/3" in shown
    assert b"True" in shown


def test_colours_only_where_they_are_wanted():
    source = "app.out.styled(app.out.style('ok\\x07', fg='green'))"
    assert probe(source).stdout == "ok\\x07\n"
    assert on_a_terminal(script(source))[0] == b"\x1b[32mok\\x07\x1b[0m\r\n"
    assert on_a_terminal(script(source, "--no-color"))[0] == b"ok\\x07\r\n"


def test_it_asks_on_a_terminal_and_refuses_to_guess_elsewhere():
    source = "print('went' if app.out.confirm('Rebuild memory.db?', yes=False) else 'stayed')"
    done = probe(source, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr == (
        "journal: Rebuild memory.db? needs an answer, and there is no terminal - add --yes to go ahead\n"
    )
    assert probe(source.replace("False", "True"), stdin=subprocess.DEVNULL).stdout == "went\n"
    for answer, outcome in ((b"y\n", b"went"), (b"\n", b"stayed"), (b"no\n", b"stayed")):
        assert outcome in on_a_terminal(script(source), answer)[0]
