"""`journal verify --repair` and `journal scrub`, as a user meets them: beside a server, interrupted, on a copy."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from journal.events import EntityCreated, ObservationAdded
from journal.log import Log
from journal.storage import RealStorage
from recovery import open_server_sync
from recovery.data import Data
from recovery.log.pacing import Pace
from recovery.log.scrub import scrub
from tests.commands import SMALL, Command, small_history


@pytest.fixture
def journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Ten events, one checkpoint, and parity of what is sealed."""
    small_history(tmp_path / "data")
    command = Command(tmp_path / "data", capsys)
    command.json("checkpoint", "create")
    return command


def segment(journal: Command, number: int = 1) -> Path:
    return sorted((journal.data / "journal" / "segments").glob("*.seg"))[number]


def flip(path: Path, offset: int, mask: int = 1) -> bytes:
    """Damages a byte; returns what the file was."""
    whole = path.read_bytes()
    path.write_bytes(whole[:offset] + bytes([whole[offset] ^ mask]) + whole[offset + 1 :])
    return whole


def event_types(journal: Command, count: int) -> list[str]:
    return [each["type"] for each in journal("log", "--json", "-n", str(count)).json_lines()]


# -- repair -----------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_put_right_told_and_journaled(journal: Command) -> None:
    path = segment(journal)
    whole = flip(path, path.read_bytes().index(b"renewed"), 4)
    damaged = path.read_bytes()
    assert journal("verify").code == 12
    told = journal("verify", "--repair", "--dry-run")
    assert told.code == 12
    assert "would repair segments/" in told.out
    assert "event 2" in told.out
    assert path.read_bytes() == damaged
    done = journal("verify", "--repair")
    assert done.code == 0, done
    assert "bit 2 of byte" in done.out
    assert "no damage" in done.out
    assert path.read_bytes() == whole
    kept = list((journal.data / "journal" / "quarantine").glob("damaged-*"))
    assert [each.read_bytes() for each in kept] == [damaged]
    assert event_types(journal, 3) == ["recovery.started", "recovery.step_completed", "recovery.completed"]
    again = journal("verify", "--repair")
    assert (again.code, again.out.splitlines()[0]) == (0, "nothing to repair")
    assert event_types(journal, 1) == ["recovery.completed"], "a second run journaled something"


def test_a_bad_sector_comes_back_from_parity(journal: Command) -> None:
    path = segment(journal)
    whole = path.read_bytes()
    at = whole.index(b"renewed") // 512 * 512
    path.write_bytes(whole[:at] + bytes(512) + whole[at + 512 :])
    found = journal("verify", "--repair", "--json").json()
    assert found["ok"] is True
    assert {each["method"] for each in found["repair"]["repairs"]} == {"parity"}
    assert (found["repair"]["done"], found["repair"]["journaled"]) == (True, True)
    assert path.read_bytes() == whole


def test_what_cannot_be_proven_stays_and_keeps_its_exit_code(journal: Command) -> None:
    shutil.rmtree(journal.data / "journal" / "parity")
    path = segment(journal)
    flip(path, path.read_bytes().index(b"renewed"), 0xFF)
    damaged = path.read_bytes()
    done = journal("verify", "--repair")
    assert done.code == 12
    assert "nothing to repair" in done.out
    assert path.read_bytes() == damaged


def test_a_repair_waits_for_no_writer_and_disturbs_none(journal: Command) -> None:
    path = segment(journal)
    offset = path.read_bytes().index(b"renewed")
    with open_server_sync(journal.data, check="quick", background=False):
        flip(path, offset)
        done = journal("verify", "--repair")
        assert done.code == 11
        assert "another writer" in done.err
        assert journal("verify", "--repair", "--dry-run").code == 12
    assert journal("verify", "--repair").code == 0


def test_a_repair_in_a_copy_is_told_by_whoever_opens_it(journal: Command, tmp_path: Path, capsys) -> None:
    """An event of its own would make another history of a backup."""
    journal.json("backup", str(tmp_path / "backup"))
    copy = Command(tmp_path / "backup", capsys)
    path = segment(copy)
    whole = flip(path, path.read_bytes().index(b"renewed"))
    done = copy("verify", "--repair")
    assert (done.code, "not journaled yet" in done.err) == (0, True)
    assert path.read_bytes() == whole
    assert journal.json("backup", str(tmp_path / "backup"))["last_seq"] == SMALL + 1, "the next backup refused it"


def test_a_dry_run_of_nothing_is_a_mistake(journal: Command) -> None:
    done = journal("verify", "--dry-run")
    assert (done.code, "--repair" in done.err) == (2, True)


def test_parity_on_another_disk(journal: Command, tmp_path: Path) -> None:
    other = tmp_path / "other disk"
    (journal.data / "journal.yaml").write_text(f"parity: {{directory: {other}, share: 0.25}}\n")
    shutil.rmtree(journal.data / "journal" / "parity")
    made = journal.json("scrub")
    assert made["parity_files"] > 3
    assert not (journal.data / "journal" / "parity").exists()
    (place,) = other.iterdir()
    assert len(place.name) == 32
    path = segment(journal)
    whole = path.read_bytes()
    path.write_bytes(bytes(300) + whole[300:])
    assert journal("verify", "--repair").code == 0
    assert path.read_bytes() == whole


@pytest.fixture
def apart(journal: Command, tmp_path: Path) -> Path:
    """Parity in a directory of its own, as on another device, made by now; and where it lies."""
    (journal.data / "journal.yaml").write_text(f"parity:\n  directory: {tmp_path}/device/parity\n")
    journal.json("scrub", "--rate", "0")
    return next((tmp_path / "device" / "parity").iterdir())


def test_a_device_of_parity_that_fails_stops_nothing_but_parity(journal: Command, apart: Path) -> None:
    """It cannot even be listed any more: another name lies where its directory was."""
    shutil.rmtree(apart)
    apart.write_text("no directory")
    assert journal("check").code == 0
    assert journal("tag", "on it goes").code == 0
    path = segment(journal)
    whole = flip(path, path.read_bytes().index(b"renewed"))
    assert journal("verify", "--repair").code == 1, "what is left is the device"
    assert path.read_bytes() == whole
    assert journal.json("checkpoint", "create")["parity_problem"]
    for path in journal.data.glob("memory*"):
        path.unlink()
    assert journal("recover", "all", "--yes").code == 0
    ran = journal("verify", "--json")
    assert (ran.code, [each["path"] for each in ran.json()["findings"]]) == (1, [f"{apart}/segments"])
    ran = journal("scrub", "--rate", "0", "--json")
    assert (ran.code, bool(ran.json()["parity_problem"])) == (0, True)


def test_what_parity_on_a_device_that_takes_no_writes_restores_is_restored_and_told(
    journal: Command, apart: Path
) -> None:
    """Parity is damaged as well, and cannot be made anew: its directory's lock is not to be had, as where it is
    read-only."""
    path = segment(journal)
    whole = flip(path, 900)
    damaged = bytearray(path.read_bytes())
    damaged[900:1000] = bytes(100)
    path.write_bytes(damaged)
    parity = sorted((apart / "segments").iterdir())[0]
    flip(parity, parity.stat().st_size - 1)
    (apart / "lock").unlink()
    (apart / "lock").mkdir()
    ran = journal("verify", "--repair")
    assert (ran.code, f"repaired segments/{path.name}" in ran.out, "not made anew" in ran.err) == (12, True, True), ran
    assert path.read_bytes() == whole
    assert "made anew" not in journal("log", "--type", "recovery.*", "--json").out, "it was not"
    (apart / "lock").rmdir()
    assert journal("verify", "--repair").code == 0


def test_no_parity_where_none_is_wanted(tmp_path: Path, capsys) -> None:
    small_history(tmp_path / "data")
    (tmp_path / "data" / "journal.yaml").write_text("parity: {share: 0}\n")
    command = Command(tmp_path / "data", capsys)
    command.json("checkpoint", "create")
    command.json("scrub")
    assert not (tmp_path / "data" / "journal" / "parity").exists()


def test_parity_goes_with_the_checkpoints_that_are_pruned(journal: Command) -> None:
    (journal.data / "journal.yaml").write_text("retention: {gap_events: 1000, gap_ratio: 0}\n")
    for number in range(3):
        with open_server_sync(journal.data, check="quick", background=False) as hook:
            hook.agents.write("writer", b"version %d\n" % number)
        journal.json("checkpoint", "create")
    parity = journal.data / "journal" / "parity" / "checkpoints"
    before = sorted(path.name for path in parity.rglob("*.par"))
    assert journal("checkpoint", "prune", "--yes").code == 0
    after = sorted(path.name for path in parity.rglob("*.par"))
    assert set(after) < set(before)
    store = Data.at(journal.data).checkpoints
    listed = {f"{part.sha256}.par" for manifest in store.manifests() for part in manifest.parts}
    assert {name for name in after if "manifest" not in name} == listed
    assert journal("verify").out.endswith("no damage\n")


# -- scrub ------------------------------------------------------------------------------------------------------------


def test_a_scrub_reads_all_and_journals_what_it_found(journal: Command) -> None:
    files = [path for path in (journal.data / "journal").rglob("*") if path.is_file() and path.name != "lock"]
    done = journal.json("scrub")
    assert (done["files"], done["findings"], done["journaled"]) == (len(files), [], True)
    assert done["bytes"] == sum(path.stat().st_size for path in files)
    assert event_types(journal, 1) == ["scrub.completed"]
    part = max((journal.data / "journal" / "checkpoints" / "parts").iterdir(), key=lambda path: path.stat().st_size)
    flip(part, 9000)
    found = journal("scrub")
    assert found.code == 12
    assert str(part) in found.out
    (told,) = journal("log", "--json", "-n", "1").json_lines()
    assert str(part) in told["event"]["findings"][0]
    assert journal("verify", "--repair").code == 0


def test_a_scrub_names_every_kind_of_damage(journal: Command) -> None:
    folder = journal.data / "journal"
    victims = [
        segment(journal), *(folder / "checkpoints").glob("*.manifest"), *(folder / "checkpoints" / "parts").iterdir(),
        max((folder / "parity" / "segments").iterdir()),
    ]  # fmt: skip
    for path in victims:
        flip(path, len(path.read_bytes()) // 2, 0x81)
    found = journal("scrub", "--json")
    assert found.code == 12
    named = {each["path"] for each in found.json()["findings"]}
    assert named >= {str(path) for path in victims if path.suffix != ".par" and "parts" not in str(path)}
    assert str(victims[-1]) in named
    assert max((folder / "parity" / "segments").iterdir()).read_bytes(), "made anew"


def test_a_scrub_reads_indexes_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Command(tmp_path / "data", capsys)
    assert journal("init").code == 0
    with open_server_sync(journal.data, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"))
        for number in range(3):
            hook.append(ObservationAdded("global", "Acme", f"{number} " + "x" * 60_000))
    journal.json("tag", "sealed")
    assert journal("log", "--entity", "Acme").code == 0
    (index,) = (journal.data / "journal" / "index").glob("*.idx")
    assert journal("scrub", "--rate", "0").code == 0
    flip(index, 100)
    ran = journal("scrub", "--rate", "0", "--json")
    assert (ran.code, [each["path"] for each in ran.json()["findings"]]) == (12, [str(index)])


def test_a_missing_segment_is_named(journal: Command) -> None:
    segment(journal).unlink()
    found = journal("scrub")
    assert found.code == 12
    assert "a segment is missing before it" in found.out


def test_beside_a_server_it_reads_without_the_lock_and_is_journaled_by_it(journal: Command) -> None:
    with open_server_sync(journal.data, check="quick", background=False):
        done = journal("scrub")
    assert (done.code, done.err) == (0, "")
    assert "scrub.completed" in journal("log", "--type", "scrub.completed", "--json").out


def test_beside_a_writer_that_does_not_listen_it_says_that_it_was_not_journaled(journal: Command) -> None:
    with closing(Log.open(RealStorage(), str(journal.data / "journal"))):
        done = journal("scrub")
    assert done.code == 0
    assert "not journaled: a writer is at work" in done.err


def test_one_that_is_interrupted_goes_on(journal: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first half found is not forgotten, and not read twice."""
    path = segment(journal)
    flip(path, path.read_bytes().index(b"renewed"), 0xFF)
    data, seen = Data.at(journal.data), []

    def interrupt(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scrub(data, 0, progress=interrupt)
    assert (journal.data / "journal" / "scrub.json").exists()
    assert journal("verify", "--json").json()["findings"][0]["path"] == str(path)
    flip(path, path.read_bytes().index(b"Acme"), 0xFF)
    monkeypatch.setattr("recovery.log.scrub._journal", lambda data, result: None)
    done = scrub(data, 0)
    assert (done.resumed, [each.path for each in done.findings]) == (True, [str(path)])
    assert not (journal.data / "journal" / "scrub.json").exists()
    again = scrub(data, 0)
    assert (again.resumed, again.files) == (False, done.files + done.parity_files)


def test_a_standing_that_cannot_be_read_is_begun_anew(journal: Command) -> None:
    (journal.data / "journal" / "scrub.json").write_bytes(b"\x00" * 50)
    assert journal("verify").code == 12, "damage under journal/ is named, whatever it is"
    done = journal.json("scrub")
    assert done["resumed"] is False
    assert journal("verify").code == 0


def test_the_rate_is_kept() -> None:
    """Counted against a clock that the test moves: 100 bytes at 10 a second wait 10 seconds, and idle time is lost."""
    now, waited = [0.0], []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    pace = Pace(10, lambda: now[0], wait)
    for _ in range(4):
        pace.note(25)
    assert sum(waited) == pytest.approx(10)
    now[0] += 100
    pace.note(50)
    assert sum(waited) == pytest.approx(15)
    unbounded = Pace(0, lambda: now[0], wait)
    unbounded.note(1 << 40)
    assert sum(waited) == pytest.approx(15)
    assert (pace.bytes, unbounded.bytes) == (150, 1 << 40)


# -- recovery ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def unchecked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Ten events, no checkpoint: whoever checks the state reads the log from the first one."""
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


def test_recover_puts_the_log_right_before_all_else(unchecked: Command) -> None:
    """As a unit file says it: ExecStartPre=journal recover all --yes."""
    path = segment(unchecked)
    whole = flip(path, path.read_bytes().index(b"renewed"), 4)
    checked = unchecked("check")
    assert checked.code == 12
    assert "it can be put right: segments/" in checked.out
    assert "journal recover all" in checked.out
    planned = unchecked("recover", "all", "--dry-run")
    assert (planned.code, "put the log right" in planned.out) == (0, True)
    assert path.read_bytes() != whole
    done = unchecked("recover", "all", "--yes")
    assert done.code == 0, done
    assert "bit 2 of byte" in done.out
    assert path.read_bytes() == whole
    assert unchecked("check").code == 0
    again = unchecked("recover", "all", "--yes")
    assert (again.code, again.out) == (0, "nothing to do\n")


def test_a_server_that_starts_puts_the_log_right(unchecked: Command) -> None:
    path = segment(unchecked)
    whole = flip(path, path.read_bytes().index(b"renewed"), 4)
    with open_server_sync(unchecked.data, background=False) as hook:
        assert path.read_bytes() == whole
        hook.agents.write("writer", b"after the repair\n")
    assert "recovery.step_completed" in event_types(unchecked, 4)
    assert unchecked("verify").code == 0


def test_a_log_that_cannot_be_put_right_still_stops_recovery(unchecked: Command) -> None:
    path = segment(unchecked)
    flip(path, path.read_bytes().index(b"renewed"), 0xFF)
    damaged = path.read_bytes()
    assert unchecked("recover", "all", "--yes").code == 12
    assert path.read_bytes() == damaged


def test_a_log_of_which_only_a_part_can_be_put_right_stops_after_it(unchecked: Command) -> None:
    """Two segments are damaged, one of them beyond repair."""
    with open_server_sync(unchecked.data, check="quick", background=False) as hook:
        hook.agents.write("writer", b"one more segment, with an event in it\n")
    flip(segment(unchecked), segment(unchecked).read_bytes().index(b"renewed"), 0xFF)
    later = segment(unchecked, -1)
    whole = flip(later, later.read_bytes().index(b"more"), 4)
    assert unchecked("recover", "all", "--yes").code == 12
    assert later.read_bytes() == whole
    assert not (unchecked.data / "journal" / "repairs.json").exists(), "what was done is journaled all the same"


def test_what_can_be_put_right_is_not_given_up(unchecked: Command) -> None:
    path = segment(unchecked)
    whole = flip(path, path.read_bytes().index(b"renewed"), 4)
    damaged = path.read_bytes()
    refused = unchecked("recover", "journal", "--accept-loss", "--yes")
    assert refused.code == 12
    assert "journal verify --repair" in refused.err
    assert path.read_bytes() == damaged
    assert unchecked("verify", "--repair").code == 0
    assert path.read_bytes() == whole
