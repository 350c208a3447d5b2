"""What happened over time, for eyes: drawn in a terminal, and as a page that a real browser opens."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from journal.events import EntityCreated, MessageRecorded, ObservationAdded
from recovery import open_server_sync
from recovery.setup import initialise
from tests.commands import ENVIRONMENT, Command, process

SECRET = "the vault's number is 4711"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Two writers' work, a checkpoint, rows altered and recovered, a restore, a tag, a drill."""
    data = tmp_path / "data"
    initialise(str(data))
    with open_server_sync(data, background=False) as hook:
        for number in range(30):
            name = f"e{number}"
            hook.append_all([EntityCreated("global", name, "thing"), ObservationAdded("global", name, SECRET)])
        hook.append(MessageRecorded("c", "sales", "user", SECRET, "m1"))
        hook.agents.write("writer", f"---\nname: writer\n---\n{SECRET}\n")
        hook.checkpoint()
    with closing(sqlite3.connect(data / "memory.db")) as vandal, vandal:
        vandal.execute("UPDATE observations SET content = 'x' || id WHERE id < 20")
    with open_server_sync(data, background=False) as hook:
        hook.restore(20, reason=SCRIPT)
    assert process(data, "tag", "here").returncode == 0
    assert process(data, "drill").returncode == 0
    return Command(data, capsys)


def test_every_event_is_in_one_stretch_of_one_series(run: Command) -> None:
    log = run("log", "--json").json_lines()
    told = run.json("timeline", "--width", "40")
    assert all(len(counts) == 40 for counts in told["counts"].values())
    fronts = Counter(each["type"].partition(".")[0] for each in log)
    assert sum(told["counts"]["memory"]) == fronts.pop("memory")
    assert sum(told["counts"]["agents"]) == fronts.pop("agent")
    assert sum(told["counts"]["messages"]) == fronts.pop("conversation")
    assert sum(told["counts"]["journal"]) == sum(fronts.values())
    assert [each["kind"] for each in told["landmarks"]] == ["checkpoint", "recovery", "restore", "tag", "drill"]
    (recovery,) = told["recoveries"]
    assert (recovery["outcome"], [step["strategy"] for step in recovery["steps"]]) == ("completed", ["rebuild_memory"])


def test_a_part_of_it_by_moments(run: Command) -> None:
    told = run.json("timeline", "--since", "seq:10", "--until", "20")
    assert told["events"] == 11
    assert told["landmarks"] == []
    assert run("timeline", "--since", "now").out == "nothing was written in this time\n"
    assert run("timeline", "--since", "gestern").code == 2


def test_the_drawing_has_a_line_for_each_and_fits_its_width(run: Command) -> None:
    lines = run("timeline", "--width", "30").out.splitlines()
    drawn = {line.split(" ")[0]: line[11:] for line in lines[1:] if re.match("[a-z]+ ", line)}
    assert {"memory", "agents", "messages", "checkpoint", "recovery", "restore", "tag", "drill"} <= set(drawn)
    assert all(len(line) <= 30 for line in drawn.values())
    assert drawn["restore"].strip() == "<"
    assert "█" in drawn["memory"]
    narrow = run("timeline", "-n", "1").out
    assert "landmarks before these" in narrow
    assert "\x1b" not in narrow


def test_what_went_wrong_is_marked(run: Command) -> None:
    """A writer that was killed, and what took over from it."""
    killed = (
        "import os, sys\nfrom recovery import open_server_sync\nfrom journal.events import EntityCreated\n"
        "with open_server_sync(sys.argv[1], background=False) as hook:\n"
        "    hook.append(EntityCreated('global', 'late', 'thing'))\n    os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", killed, str(run.data)], env=ENVIRONMENT, check=False)
    assert process(run.data, "tag", "later").returncode == 0
    takeovers = [each for each in run.json("timeline")["landmarks"] if each["kind"] == "takeover"]
    assert [each["ok"] for each in takeovers] == [False]
    assert re.search(r"^! .*took over", run("timeline").out, re.MULTILINE)


def test_the_page_stands_alone_and_keeps_what_agents_remember_to_itself(run: Command, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    told = run.json("report", "-o", str(page))
    text = page.read_text()
    assert told["bytes"] == len(text.encode())
    assert page.stat().st_mode & 0o777 == 0o600
    assert SECRET not in text
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", text)
    assert text.count("<details") == 1
    assert run("report", "-o", "-").out.splitlines()[0] == "<!doctype html>"
    assert run("report", "-o", str(tmp_path)).code == 2


def test_redaction_holds_in_the_page(run: Command, tmp_path: Path) -> None:
    (run.data / "journal.yaml").write_text('redact:\n  patterns: ["alert"]\n')
    assert run("report", "-o", str(tmp_path / "r.html")).code == 0
    assert "alert" not in (tmp_path / "r.html").read_text()


def test_growth_is_what_the_states_held(run: Command, tmp_path: Path) -> None:
    """After the restore there are fewer rows than before it; the last count is memory.db's own."""
    from journal.storage import RealStorage
    from recovery.data import Data
    from recovery.growth import growth

    data = Data.at(run.data)
    reader = data.reader()
    held = growth(data, reader, [0, 20, 62, 62, reader.last_seq])
    assert [each.seq for each in held] == [0, 20, 62, reader.last_seq]
    assert [each.rows["entities"] for each in held] == [0, 10, 30, 10]
    with closing(sqlite3.connect(run.data / "memory.db")) as connection:
        assert connection.execute("SELECT count(*) FROM observations").fetchone() == (held[-1].rows["observations"],)
    assert RealStorage().list(str(tmp_path)) == ["data"]


def test_a_real_browser_draws_the_page(run: Command, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not on this machine: no browser has opened the page")
    page = tmp_path / "report.html"
    assert run("report", "-o", str(page)).code == 0
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip
    shot = tmp_path / "shot.png"
    command = [chromium, *options, f"--screenshot={shot}", "--window-size=1000,900", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert shot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    dumped = subprocess.run(
        [chromium, *options, "--dump-dom", page.as_uri()], check=True, capture_output=True, timeout=120
    )
    dom = dumped.stdout.decode()
    text = page.read_text()
    for drawn in ("<rect", "<polyline", "<circle", "<details", "<tr"):
        assert dom.count(drawn) == text.count(drawn) > 0, "the browser read another document than was written"
