"""The log on a real disk: crashes, a second writer, missing and foreign segments, a tail in each of its states."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from journal.errors import (
    AmbiguousTail,
    Corrupt,
    IOFault,
    JournalError,
    Locked,
    NoSpace,
    NotAJournal,
    OutcomeUnknown,
    Poisoned,
)
from journal.format import PAYLOAD_BYTES_MAX, encode_batch
from journal.holder import Holder
from journal.log import Log, create
from journal.reader import LogReader
from journal.storage import RealLock, RealStorage
from journal.verify import verify
from tests.journals import START, abandon, append, journal_in, segment_files
from tests.simdisk import SimDisk


def read_all(directory: str) -> list[str]:
    reader = LogReader(RealStorage(), directory)
    return [record.event.content for batch in reader.batches() for record in batch.records()]


def facts(first: int, last: int) -> list[str]:
    return [f"fact {number}" for number in range(first, last + 1)]


def test_what_was_appended_is_read_back_in_order_after_a_clean_close(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    with_log = Log.open(storage, directory)
    append(with_log, 1)
    append(with_log, 2, 5)
    with_log.close()
    assert read_all(directory) == facts(1, 6)
    again = Log.open(storage, directory)
    assert (again.opening.clean, again.next_seq, again.epoch) == (True, 7, 3)
    again.close()


def test_an_open_that_writes_nothing_leaves_no_segment(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    for _ in range(3):
        Log.open(storage, directory).close()
    assert len(segment_files(directory)) == 1


def test_after_a_kill_the_unvouched_batch_is_copied_and_synced_before_use(tmp_path: Path) -> None:
    """The last batch's sync may have failed: it is carried into a new segment, with its chain and epoch."""
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    append(log, 1)
    append(log, 2, 3)
    chain = log.chain
    abandon(log)
    again = Log.open(storage, directory)
    assert again.opening.carried == ((2, "e2-2"), (3, "e2-3"), (4, "e2-4"))
    assert again.chain == chain
    append(again, 5)
    again.close()
    assert read_all(directory) == facts(1, 5)
    reader = LogReader(storage, directory)
    assert reader.chain_at(3) == chain
    assert [batch.epoch for batch in reader.batches()] == [2, 2, 3]


def test_a_second_writer_is_told_who_holds_the_journal(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory, holder=Holder(pid=4711, command="journal append"))
    with pytest.raises(Locked, match=r"process 4711 \(journal append\), epoch 2") as caught:
        Log.open(storage, directory)
    assert caught.value.exit_code == 11
    log.close()
    Log.open(storage, directory).close()


def test_a_batch_during_which_the_lock_was_taken_away_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario: a writer has just looked at its lock; another takes it and reads the log; then the batch is written,
    behind what the other one knows of."""
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    append(log, 1)

    def stealing(*given: Any, **named: Any) -> bytes:
        monkeypatch.undo()
        os.unlink(f"{directory}/lock")
        thieves.append(Log.open(storage, directory))
        append(thieves[0], 2)
        return encode_batch(*given, **named)

    thieves: list[Log] = []
    monkeypatch.setattr("journal.log.encode_batch", stealing)
    with pytest.raises(OutcomeUnknown, match="lock file was replaced"):
        append(log, 2)
    with pytest.raises(Poisoned):
        append(log, 2)
    log.close()
    thieves[0].close()
    assert read_all(directory) == facts(1, 2)
    assert verify(storage, directory).exit_code == 0


def test_a_writer_whose_lock_file_was_replaced_stops_before_it_writes(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    append(log, 1)
    os.unlink(f"{directory}/lock")
    thief = Log.open(storage, directory)
    with pytest.raises(Poisoned, match="lock file was replaced"):
        append(log, 2)
    append(thief, 2)
    thief.close()
    log.close()
    assert read_all(directory) == facts(1, 2)


def test_a_lock_file_that_was_replaced_while_it_was_locked_is_no_lock(tmp_path: Path) -> None:
    """Between open(2) and flock(2) the directory may be put aside: the lock is then on a file that nobody else sees."""

    class Replacing(RealStorage):
        def lock(self, path: str) -> RealLock | None:
            held = super().lock(path)
            Path(path).rename(f"{path}.old")
            Path(path).touch()
            return held

    journal = str(tmp_path / "journal")
    create(RealStorage(), journal)
    with pytest.raises(Locked, match="replaced"):
        Log.open(Replacing(), journal)
    assert Path(f"{journal}/lock").read_bytes() == b""


def test_a_forked_childs_handle_is_poisoned(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    append(log, 1)
    child = os.fork()
    if child == 0:
        try:
            append(log, 2)
        except Poisoned:
            os._exit(42)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    append(log, 2)
    log.close()
    assert read_all(directory) == facts(1, 2)


def test_rotation_starts_a_segment_that_names_the_end_of_the_one_before(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory, segment_bytes_max=4096)
    for number in range(1, 101):
        append(log, number)
    log.close()
    assert len(segment_files(directory)) > 4
    assert read_all(directory) == facts(1, 100)


def test_reading_may_start_at_any_seq_and_time(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory, segment_bytes_max=4096)
    for first in range(1, 61, 3):
        append(log, first, 3)
    log.close()
    reader = LogReader(storage, directory)
    for seq in range(1, 61):
        batch = reader.batch_of(seq)
        assert batch.first_seq <= seq <= batch.last_seq
        assert reader.time_of(seq) == START + seq * 1000
        assert reader.seq_at(START + seq * 1000) == seq
        assert reader.seq_at(START + seq * 1000, exclusive=True) == seq - 1
        assert reader.seq_at(START + seq * 1000 + 999) == seq
    assert reader.seq_at(0) == 0
    assert reader.seq_at(2**63) == 60


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_missing_segment_is_named_and_never_bridged(tmp_path: Path, which: int) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory, segment_bytes_max=4096)
    for number in range(1, 101):
        append(log, number)
    log.close()
    segment_files(directory)[which].unlink()
    with pytest.raises(Corrupt, match="a segment is missing"):
        read_all(directory)


def test_a_segment_of_another_journal_is_named(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    append(log, 1)
    log.close()
    other = str(tmp_path / "other")
    create(storage, other)
    stranger = Log.open(storage, other)
    append(stranger, 1)
    stranger.close()
    shutil.copy(segment_files(other)[-1], segment_files(directory)[-1])
    with pytest.raises(Corrupt, match="belongs to journal"):
        read_all(directory)


def torn(directory: str, cut: int) -> None:
    """Zeroes the last `cut` bytes of the last batch, as sectors that were never written."""
    path = segment_files(directory)[-1]
    data = path.read_bytes()
    end = len(data.rstrip(b"\0"))
    path.write_bytes(data[: end - cut] + bytes(len(data) - end + cut))


def test_a_torn_tail_goes_to_quarantine_and_writing_goes_on_in_a_new_segment(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    append(log, 1)
    append(log, 2, 100)
    abandon(log)
    torn(directory, 1024)
    again = Log.open(storage, directory)
    assert again.opening.torn_bytes > 1000
    assert again.opening.quarantined is not None
    assert len(Path(again.opening.quarantined).read_bytes()) == again.opening.torn_bytes
    assert again.next_seq == 2
    append(again, 2)
    again.close()
    assert read_all(directory) == facts(1, 2)


def test_a_wrong_last_batch_stops_the_open_until_its_owner_decides(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    append(log, 1)
    append(log, 2)
    abandon(log)
    path = segment_files(directory)[-1]
    data = bytearray(path.read_bytes())
    data[len(data.rstrip(b"\0")) - 20] ^= 6
    path.write_bytes(data)
    with pytest.raises(AmbiguousTail, match="event 2") as caught:
        Log.open(storage, directory)
    assert caught.value.exit_code == 13
    assert caught.value.offset is not None
    with pytest.raises(AmbiguousTail):
        read_all(directory)


def test_a_torn_batch_that_memory_db_has_applied_is_corruption(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    append(log, 1)
    append(log, 2, 100)
    abandon(log)
    torn(directory, 1024)
    with pytest.raises(Corrupt, match="events 2-101"):
        Log.open(storage, directory, evidence_seq=101)


def test_damage_in_the_middle_is_corruption_and_what_lies_before_it_is_read(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    for number in range(1, 11):
        append(log, number)
    log.close()
    path = segment_files(directory)[-1]
    data = bytearray(path.read_bytes())
    data[data.index(b"fact 5")] ^= 1
    path.write_bytes(data)
    seen = []

    def read() -> None:
        for batch in LogReader(storage, directory).batches():
            seen.extend(record.event.content for record in batch.records())

    with pytest.raises(Corrupt, match="event 5"):
        read()
    assert seen == facts(1, 4)


def test_a_full_disk_refuses_before_a_byte_is_written_and_resumes(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory, reserve_bytes=0)
    append(log, 1)
    before = segment_files(directory)[-1].read_bytes()
    log._reserve_bytes = 1 << 60
    with pytest.raises(NoSpace):
        log.append([b"\xc0" * 70_000], START)
    assert segment_files(directory)[-1].read_bytes() == before
    assert log.next_seq == 2
    append(log, 2)
    log.close()
    assert read_all(directory) == facts(1, 2)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_batch_that_fits_is_not_written_behind_the_end_that_a_half_made_segment_names(error: int) -> None:
    """The next segment has its name but its directory was not synced: it says already where the one before ends."""
    storage = SimDisk()
    storage.make_directory("/data")
    _, directory = journal_in(Path("/data"), storage)
    log = Log.open(storage, directory, reserve_bytes=0)
    append(log, 1)
    assert log._segment is not None
    log._segment_bytes_max = log._segment.offset + 1000
    fault = storage.fail("sync_dir", error=error)
    with pytest.raises(JournalError):
        append(log, 2, 50)
    assert fault.fired
    with pytest.raises(Poisoned):
        append(log, 2)
    log.close()
    log = Log.open(storage, directory, reserve_bytes=0)
    append(log, 2)
    log.close()
    assert LogReader(storage, directory).last_seq == 2


def test_a_segment_that_gets_no_name_costs_nothing_but_the_batch() -> None:
    storage = SimDisk()
    storage.make_directory("/data")
    _, directory = journal_in(Path("/data"), storage)
    log = Log.open(storage, directory, reserve_bytes=0, segment_bytes_max=1)
    append(log, 1)
    fault = storage.fail("create", error=errno.EMFILE)
    with pytest.raises(IOFault):
        append(log, 2)
    assert fault.fired
    append(log, 2)
    log.close()
    assert LogReader(storage, directory).last_seq == 2


def test_what_would_be_no_batch_to_any_reader_is_never_written(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory, reserve_bytes=0)
    for records in ([], [bytes(PAYLOAD_BYTES_MAX)]):
        with pytest.raises(ValueError, match="no batch"):
            log.append(records, START)
    append(log, 1)
    log.close()
    assert read_all(directory) == facts(1, 1)


def test_what_recovery_has_to_say_may_use_the_reserve(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory, reserve_bytes=1 << 60)
    with pytest.raises(NoSpace):
        append(log, 1)
    with log.into_reserve():
        append(log, 1)
    with pytest.raises(NoSpace):
        append(log, 2, 4000)
    log.close()
    assert read_all(directory) == facts(1, 1)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_journal_whose_first_segments_are_gone_is_not_read_as_a_shorter_one(tmp_path: Path, count: int) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory, segment_bytes_max=4096)
    for number in range(1, 101):
        append(log, number)
    log.close()
    for path in segment_files(directory)[:count]:
        path.unlink()
    with pytest.raises(Corrupt, match="segments before seq"):
        read_all(directory)


@pytest.mark.parametrize("cut", [1024, 3_000, 100_000])
def test_a_carried_batch_that_was_synced_is_no_torn_tail_when_it_rots(tmp_path: Path, cut: int) -> None:
    """The carrying segment was synced whole before it got its name: sectors of it that are zeros were lost later."""
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    append(log, 1)
    append(log, 2, 100)
    abandon(log)
    abandon(Log.open(storage, directory))
    path = segment_files(directory)[-1]
    start = LogReader(storage, directory).batch_of(2).offset
    torn(directory, min(cut, len(path.read_bytes().rstrip(b"\0")) - start))
    with pytest.raises(Corrupt, match="events 2-101"):
        read_all(directory)
    with pytest.raises(Corrupt, match="events 2-101"):
        Log.open(storage, directory)


def test_rot_in_the_last_segment_after_a_reader_looked_at_it_is_named(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    for number in range(1, 11):
        append(log, number)
    log.close()
    reader = LogReader(storage, directory)
    path = segment_files(directory)[-1]
    data = bytearray(path.read_bytes())
    data[data.index(b"fact 5")] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="events 5-10"):
        list(reader.batches())


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"command":"\xff"}', b'{"epoch":99999999999}', b"[" * 50_000])
def test_a_garbled_lock_file_costs_nothing_but_the_holders_name(tmp_path: Path, content: bytes) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    append(log, 1)
    log.close()
    Path(directory, "lock").write_bytes(content)
    again = Log.open(storage, directory)
    assert again.epoch == 3
    again.close()


def test_a_directory_without_a_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotAJournal, match="no journal here"):
        Log.open(RealStorage(), str(tmp_path))
    with pytest.raises(NotAJournal):
        LogReader(RealStorage(), str(tmp_path))


def test_a_lost_log_beside_checkpoints_is_corruption_not_absence(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    Path(directory, "checkpoints", "0000000000000001.manifest").write_bytes(b"x")
    for path in segment_files(directory):
        path.unlink()
    with pytest.raises(Corrupt, match="all segments are missing"):
        LogReader(storage, directory)
