"""`journal backup` and `journal recover --from`: where a backup may lie, and when it is not brought back."""

from __future__ import annotations

import shutil
from pathlib import Path
from zlib import crc32

import msgspec
import pytest

from journal.checkpoint import CheckpointStore
from journal.events import EntityCreated
from journal.storage import RealStorage
from recovery import open_server_sync
from recovery.log import backup as backing
from tests.commands import SMALL, Command, small_history
from tests.damage import tree
from tests.journals import segment_files


@pytest.fixture
def journal(tmp_path, capsys):
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


@pytest.fixture
def backup(journal, tmp_path) -> str:
    journal.json("backup", str(tmp_path / "backup"))
    return str(tmp_path / "backup")


def write(data: Path, name: str) -> None:
    with open_server_sync(data, background=False) as hook:
        hook.append(EntityCreated("global", name, "thing"))


@pytest.mark.parametrize(
    "place", ["data", "data/backup", "data/journal", "link", "link/backup", "file", "file/backup", ""]
)
def test_a_backup_that_would_be_lost_with_its_source_is_refused(journal, tmp_path, place):
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "file").touch()
    ran = journal("backup", place and str(tmp_path / place))
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == 1
    assert not (tmp_path / "data/backup").exists()


def test_a_live_writer_keeps_its_journal(journal, backup):
    with open_server_sync(journal.data, background=False) as hook:
        ran = journal("recover", "--from", backup, "--yes")
        assert ran.code == 11
        hook.append(EntityCreated("global", "after", "thing"))
    assert journal.json("status")["journal"]["last_seq"] == SMALL + 1
    assert not list(journal.data.glob("journal.*"))


@pytest.mark.parametrize("pattern", ["journal/checkpoints/parts/*", "journal/parity/segments/*.par"])
def test_what_rotted_in_the_backup_is_copied_again(journal, backup, pattern):
    """It has its name and its length still, and nobody but the next backup looks at it."""
    assert journal("checkpoint", "create").code == 0
    journal.json("backup", backup)
    path = max(Path(backup).glob(pattern), key=lambda each: each.stat().st_size)
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    again = journal.json("backup", backup)
    assert (again["files_copied"], path.read_bytes()) == (1, whole)
    assert journal.json("backup", backup)["files_copied"] == 0


def test_a_checkpoint_that_is_pruned_while_it_is_copied(journal, tmp_path, monkeypatch):
    """And one that is not proven yet: its manifest is written anew when it is, and longer then."""
    for name in ("first", "second"):
        assert journal("tag", name).code == 0
        assert journal("checkpoint", "create").code == 0
    store = CheckpointStore(RealStorage(), str(journal.data / "journal/checkpoints"))
    newest, oldest = store.manifests()
    store.publish(msgspec.structs.replace(newest, state="written", verified_at=None))
    copied = backing._copy

    def copy(storage, source, target, *given):
        if source.endswith(f"{oldest.seq:016d}.manifest") or "/parts/" in source:
            monkeypatch.setattr(backing, "_copy", copied)
            with store.exclusive():
                store.remove([oldest])
                store.publish(newest)
                store.sweep()
        copied(storage, source, target, *given)

    monkeypatch.setattr(backing, "_copy", copy)
    journal.json("backup", str(tmp_path / "copy"))
    assert journal("verify", "--data", str(tmp_path / "copy")).code == 0


def test_a_part_that_is_missing_for_good_is_told_and_not_waited_for(journal, tmp_path):
    assert journal("checkpoint", "create").code == 0
    next((journal.data / "journal/checkpoints/parts").iterdir()).unlink()
    ran = journal("backup", str(tmp_path / "copy"))
    assert (ran.code, "missing" in ran.err) == (12, True)


def test_a_segment_that_was_the_last_at_one_backup_and_is_packed_at_the_next(journal, tmp_path):
    """What was copied of it is a part, and must not count beside the pack that holds all of it."""
    (journal.data / "journal.yaml").write_text("segment_bytes_max: 65536\n")
    place = str(tmp_path / "copy")
    with open_server_sync(journal.data, background=False) as hook:
        for number in range(12):
            hook.append(EntityCreated("global", f"{number}", "thing", {"text": "x" * 20_000}))
            if number == 1:
                journal.json("backup", place)
        assert journal.json("compact")["segments"] > 1
        for _ in range(2):
            assert journal.json("backup", place)["last_seq"] == SMALL + 12
        names = [path.stem for path in (tmp_path / "copy/journal/segments").iterdir()]
        assert len(names) == len(set(names)), "plain and packed"
    shutil.rmtree(journal.data)
    assert journal("recover", "--from", place, "--yes").code == 0
    assert journal.json("status")["journal"]["last_seq"] >= SMALL + 12


def test_a_journal_that_is_gone_comes_back(journal, backup):
    shutil.rmtree(journal.data)
    assert journal("recover", "--from", backup, "--yes").code == 0
    assert journal.json("check")["health"] == "healthy"


def test_a_whole_journal_is_not_replaced_by_its_copy(journal, backup):
    for _ in range(2):  # cut between bringing back and recovering, the same command goes on
        assert journal("recover", "--from", backup, "--yes").code == 0
    assert not list(journal.data.glob("journal.*"))


def test_a_journal_that_cannot_be_read_is_kept_beside_its_backup(journal, backup):
    for path in segment_files(journal.data / "journal"):
        if Path(path).stat().st_size > 1000:
            Path(path).write_bytes(Path(path).read_bytes()[:900] + bytes(range(256)))
    told = journal("check")
    assert told.code == 12
    assert told.out.count("recover --from DIR") == 1
    assert journal("recover", "--from", backup, "--yes").code == 0
    assert journal.json("check")["health"] == "healthy"
    assert len(list(journal.data.glob("journal.replaced-*"))) == 1


def test_a_journal_that_goes_on_is_not_replaced_by_its_past(journal, backup):
    write(journal.data, "later")
    ran = journal("recover", "--from", backup, "--yes")
    assert (ran.code, "nothing was changed" in ran.err) == (2, True)
    assert journal.json("status")["journal"]["last_seq"] == SMALL + 1


def test_a_journal_with_another_history_is_not_replaced(journal, backup, tmp_path):
    shutil.copytree(journal.data, tmp_path / "fork", symlinks=True)
    write(journal.data, "one way")
    write(tmp_path / "fork", "another")
    shutil.rmtree(backup)
    journal.json("backup", backup)
    ran = Command(tmp_path / "fork", journal.capsys)("recover", "--from", backup, "--yes")
    assert (ran.code, ran.out) == (14, "")


def test_a_newer_programs_journal_is_not_replaced(journal, backup):
    for path in segment_files(journal.data / "journal"):
        newer = bytearray(Path(path).read_bytes())
        newer[8:10] = (9).to_bytes(2, "little")
        length = int.from_bytes(newer[12:16], "little")
        newer[16:20] = crc32(newer[20:length], crc32(newer[:16])).to_bytes(4, "little")
        Path(path).write_bytes(newer)
    ran = journal("recover", "--from", backup, "--yes")
    assert (ran.code, ran.out) == (15, "")
    assert not list(journal.data.glob("journal.*"))


def test_a_journal_is_no_backup_of_itself(journal):
    ran = journal("recover", "--from", str(journal.data), "--yes")
    assert (ran.code, ran.out) == (2, "")


def test_clients_of_serve_keep_their_token_and_no_epoch_is_claimed_twice(journal, backup):
    """A caller of the journal that was lost may still ask what became of the op_id that was generated for it."""
    (journal.data / "journal/token").write_text("a" * 43 + "\n")
    with open_server_sync(journal.data, background=False) as hook:
        lost = hook.append(EntityCreated("global", "lost", "thing"))
    ruin(journal)
    for path in journal.data.glob("memory*"):
        path.unlink()
    assert journal("recover", "--from", backup, "--yes").code == 0
    assert (journal.data / "journal/token").read_text() == "a" * 43 + "\n"
    assert not (Path(backup) / "journal/token").exists(), "a backup tells nobody's secret"
    with open_server_sync(journal.data, background=False) as hook:
        other = hook.append(EntityCreated("global", "other", "thing"))
    assert other.epoch > lost.epoch
    asked = journal("log", "--op-id", lost.op_id)
    assert (asked.code, asked.out) == (0, ""), "it was not taken: no other event answers to its name"


# -- the dry run ------------------------------------------------------------------------------------------------------


def ruin(journal: Command) -> None:
    """The journal here cannot be read, and what is made from it is gone."""
    for path in segment_files(journal.data / "journal"):
        Path(path).write_bytes(Path(path).read_bytes()[:900] + bytes(range(256)))
    (journal.data / "agents/writer.md").unlink()
    (journal.data / "memory.db").unlink()


def test_a_dry_run_says_all_that_would_be_done_and_changes_no_byte(journal, backup, tmp_path):
    ruin(journal)
    before = tree(tmp_path)
    planned = journal.json("recover", "--from", backup, "--dry-run")
    told = journal("recover", "--from", backup, "--dry-run")
    assert tree(tmp_path) == before
    assert (told.code, planned["done"]) == (0, False)
    kinds = [each["kind"] for each in planned["plan"]["steps"]]
    assert kinds == ["bring_back", "rebuild_memory", "restore_agents", "tidy"]
    first, *others = told.out.splitlines()
    assert f"put the journal of {backup}, up to seq {SMALL}, in the place of {journal.data}/journal, and keep" in first
    assert "rebuild memory.db" in others[0]

    done = journal("recover", "--from", backup, "--yes")
    assert done.code == 0
    assert [line for line in first[3:].split(": ") if line not in done.out] == [], "what was planned is what is done"
    assert journal.json("check")["health"] == "healthy"


def test_a_dry_run_where_nothing_is_left_makes_no_directory(journal, backup, tmp_path):
    shutil.rmtree(journal.data)
    before = tree(tmp_path)
    planned = journal.json("recover", "--from", backup, "--dry-run")
    assert tree(tmp_path) == before
    steps = planned["plan"]["steps"]
    assert [each["kind"] for each in steps] == ["bring_back", "rebuild_memory", "restore_agents"]
    assert steps[0]["reason"] == "there is no journal"


def test_a_dry_run_with_a_whole_journal_has_nothing_to_bring_back(journal, backup, tmp_path):
    before = tree(tmp_path)
    assert journal("recover", "--from", backup, "--dry-run").out == "nothing to do\n"
    assert tree(tmp_path) == before


def test_a_dry_run_refuses_what_the_run_would_refuse(journal, backup, tmp_path):
    write(journal.data, "later")
    before = tree(tmp_path)
    ran = journal("recover", "--from", backup, "--dry-run")
    assert (ran.code, ran.err) == (2, journal("recover", "--from", backup, "--yes").err)
    assert tree(tmp_path) == before
    for path in (tmp_path / "backup/journal/segments").iterdir():
        path.write_bytes(path.read_bytes()[:-300])
    ran = journal("recover", "--from", backup, "--dry-run")
    assert (ran.code, "the backup is damaged" in ran.err) == (12, True)


def test_a_dry_run_says_what_stops_the_recovery_behind_it(journal, backup, tmp_path):
    """memory.db holds an event that neither the backup nor a journal knows any more."""
    write(journal.data, "later")
    shutil.rmtree(journal.data / "journal")
    before = tree(tmp_path)
    ran = journal("recover", "--from", backup, "--dry-run")
    assert (ran.code, ran.out.count("put the journal of")) == (14, 1)
    assert f"memory.db is at seq {SMALL + 1}, beyond the journal's end" in ran.err
    assert tree(tmp_path) == before


def test_events_that_only_memory_db_still_shows_are_given_up_by_name_and_on_its_owners_word(journal, backup):
    """Scenario: the journal's disk is gone, memory.db's is not, and the backup is of last night."""
    write(journal.data, "since last night")
    shutil.rmtree(journal.data / "journal")
    ran = journal("recover", "--from", backup, "--yes")
    assert (ran.code, "journal recover journal --accept-loss --dry-run" in ran.err) == (14, True), ran
    planned = journal.json("recover", "journal", "--accept-loss", "--dry-run")
    assert planned["loss"]["lost"] == [[SMALL + 1, SMALL + 1]]
    done = journal.json("recover", "journal", "--accept-loss", "--yes")["result"]
    assert done["rows_differing"]["entities"] == 1, "the row is still to be had, and told of"
    assert journal("recover", "all", "--yes").code == 0
    assert journal.json("check")["health"] == "healthy"
    (mark,) = journal("log", "--type", "journal.event_lost", "--json").json_lines()
    assert mark["seq"] == SMALL + 1
