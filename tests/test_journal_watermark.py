"""Strict mode: what was acknowledged last is known from a file of its own, even where nothing else is left to tell."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from journal.commit import Committer, draft, ticket
from journal.errors import AmbiguousTail, Corrupt, Diverged, OutcomeUnknown, Poisoned
from journal.events import ObservationAdded
from journal.log import Log, create
from journal.reader import LogReader
from journal.storage import RealFile, RealStorage
from journal.verify import verify
from journal.watermark import FILE_BYTES, NAME, Mark, decode, encode, read_watermark
from tests.command import journal
from tests.crashes import Everything
from tests.journals import abandon, append, journal_in, segment_files
from tests.simdisk import SimDisk

ID = bytes(range(16))
OLD, NEW = Mark(7, bytes([7]) * 32, 2), Mark(9, bytes([9]) * 32, 3)


def two_marks() -> bytes:
    """A file whose sectors differ, as they do after any two batches."""
    old, new = encode(ID, OLD), encode(ID, NEW)
    return old[:1024] + new[1024:]


def strict_journal(path: Path, batches: int = 3, *, strict: bool = True) -> str:
    """A journal whose strict writer was killed after so many acknowledged batches of one event."""
    storage, directory = journal_in(path)
    log = Log.open(storage, directory, strict=strict)
    for number in range(1, batches + 1):
        append(log, number)
    abandon(log)
    return directory


def damage_last(directory: str, how: str) -> None:
    path = segment_files(directory)[-1]
    data = bytearray(path.read_bytes())
    at = data.rindex(b"fact ")
    if how == "wrong":
        data[at : at + 4] = b"\xee" * 4
    elif how == "torn":
        data[at:] = bytes(len(data) - at)
    elif how == "cut off":
        start = data.rindex(b"\xabJB\x01")
        data[start:] = bytes(len(data) - start)
    path.write_bytes(data)


# -- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strict", "syncs"), [(False, 1), (True, 2)])
def test_a_strict_batch_is_one_more_write_of_a_sector_and_one_more_sync(strict: bool, syncs: int) -> None:
    disk = SimDisk()
    create(disk, "/data/journal", journal_id=bytes(16))
    with closing(Log.open(disk, "/data/journal", reserve_bytes=0, strict=strict)) as log:
        committer = Committer(log, Everything())
        for number in range(2):
            event = ObservationAdded("global", "Acme", f"fact {number}")
            committer.submit(ticket([draft(event, None, None, None)], None))
            before, bytes_before = Counter(disk.counts.operations), disk.counts.bytes_written
            committer.run()
            done = Counter(disk.counts.operations) - before
        assert (done["write"], done["sync"]) == (syncs, syncs)
        assert not done.keys() & {"sync_dir", "create", "open", "rename", "truncate", "lock"}
        assert disk.counts.bytes_written - bytes_before <= 200 + 101 + (512 if strict else 0)


# -- what it says -----------------------------------------------------------------------------------------------------


def test_it_stands_at_the_last_batch_that_was_acknowledged(tmp_path: Path) -> None:
    directory = strict_journal(tmp_path, 4)
    reader = LogReader(RealStorage(), directory)
    assert reader.watermark == Mark(4, reader.last_chain, 2)
    with closing(Log.open(RealStorage(), directory, strict=True)) as log:
        append(log, 5, 3)
    reader = LogReader(RealStorage(), directory)
    assert reader.watermark == Mark(7, reader.last_chain, 3)
    assert verify(RealStorage(), directory).findings == []


def test_a_batch_whose_watermark_fails_is_not_acknowledged(tmp_path: Path) -> None:
    class Failing(RealFile):
        def sync(self) -> None:
            raise OSError(5, "EIO")

    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory, strict=True)
    append(log, 1)
    assert log._watermark is not None
    log._watermark._file = Failing(log._watermark._file.fd, log._watermark._file.path)  # type: ignore[attr-defined]
    with pytest.raises(OutcomeUnknown):
        append(log, 2)
    with pytest.raises(Poisoned):
        append(log, 2)
    log.close()
    with closing(Log.open(storage, directory, strict=True)) as again:
        assert [seq for seq, _ in again.opening.carried] == [2]


def test_every_flipped_bit_is_named_and_none_makes_another_mark() -> None:
    whole = two_marks()
    assert decode(whole, ID, "w").mark == NEW
    assert decode(whole, ID, "w").problems == ()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        found = decode(bytes(data), ID, "w")
        assert found.problems, bit
        assert found.mark in (None, OLD, NEW), bit
        if 512 * 8 <= bit < 1024 * 8:
            assert found.mark == NEW
        if bit >= 1024 * 8:
            assert found.mark == OLD, "the older one was lost with the newer"


@pytest.mark.parametrize("length", [0, 1, 19, 20, 36, 511, 512, 1024, FILE_BYTES - 1, FILE_BYTES + 1, 1 << 17])
def test_any_other_length_is_named(tmp_path: Path, length: int) -> None:
    directory = strict_journal(tmp_path)
    path = Path(directory, NAME)
    path.write_bytes(path.read_bytes()[:length].ljust(length, b"\0"))
    assert read_watermark(RealStorage(), directory, ID).mark is None
    assert verify(RealStorage(), directory).exit_code == 12


def test_a_torn_write_leaves_the_older_mark(tmp_path: Path) -> None:
    directory = strict_journal(tmp_path)
    path = Path(directory, NAME)
    data = bytearray(path.read_bytes())
    newest = max((1, 2), key=lambda sector: int.from_bytes(data[sector * 512 + 8 : sector * 512 + 16], "little"))
    data[newest * 512 : newest * 512 + 100] = bytes(100)
    path.write_bytes(data)
    found = read_watermark(RealStorage(), directory, ID)
    assert (found.mark.seq if found.mark else None, len(found.problems)) == (2, 1)


# -- what it is evidence of -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "without"), [("wrong", AmbiguousTail), ("torn", None), ("cut off", None)])
def test_an_acknowledged_end_that_is_damaged_never_passes_for_one_that_was_not(
    tmp_path: Path, how: str, without: type[Exception] | None
) -> None:
    """The same damage twice. Without strict mode, and with memory.db gone too, nobody can know."""
    lax = strict_journal(tmp_path / "lax", strict=False)
    damage_last(lax, how)
    if without is not None:
        with pytest.raises(without):
            Log.open(RealStorage(), lax)
    else:
        Log.open(RealStorage(), lax).close()

    directory = strict_journal(tmp_path / "strict")
    damage_last(directory, how)
    assert verify(RealStorage(), directory).exit_code == 12
    stopped = Diverged if how == "cut off" else Corrupt  # an end that is gone without a trace
    for accept_tail in (False, True):
        for strict in (True, False):
            with pytest.raises(stopped):
                Log.open(RealStorage(), directory, strict=strict, accept_tail=accept_tail)
    with pytest.raises(stopped):
        LogReader(RealStorage(), directory).raise_for_end()


def test_an_end_that_was_never_acknowledged_is_a_torn_tail_still(tmp_path: Path) -> None:
    directory = strict_journal(tmp_path)
    kept = Path(directory, NAME).read_bytes()
    storage = RealStorage()
    log = Log.open(storage, directory, strict=True)
    append(log, 4)
    abandon(log)
    Path(directory, NAME).write_bytes(kept)  # as after a cut between the batch's write and the watermark's
    damage_last(directory, "torn")
    with closing(Log.open(storage, directory, strict=True)) as again:
        assert (again.next_seq, again.opening.torn_bytes > 0) == (4, True)


def test_a_damaged_watermark_is_no_evidence_and_the_next_writer_makes_it_anew(tmp_path: Path) -> None:
    directory = strict_journal(tmp_path)
    Path(directory, NAME).write_bytes(b"\xee" * FILE_BYTES)
    assert verify(RealStorage(), directory).exit_code == 12
    with closing(Log.open(RealStorage(), directory)) as log:
        assert len(log.opening.watermark_problems) == 1
    assert verify(RealStorage(), directory).exit_code == 0
    found = read_watermark(RealStorage(), directory, ID)
    assert (found.mark.seq if found.mark else None, found.problems) == (3, ())


def test_a_watermark_of_another_life_is_divergence_and_one_of_another_journal_is_named(tmp_path: Path) -> None:
    directory = strict_journal(tmp_path / "one")
    shutil.copytree(directory, tmp_path / "other")
    for place, number in ((directory, 8), (str(tmp_path / "other"), 9)):
        with closing(Log.open(RealStorage(), place, strict=True)) as log:
            append(log, number)
    shutil.copy(tmp_path / "other" / NAME, Path(directory, NAME))
    assert verify(RealStorage(), directory).exit_code == 14
    with pytest.raises(Diverged):
        Log.open(RealStorage(), directory, strict=True)
    create(RealStorage(), str(tmp_path / "new"))
    shutil.copy(Path(directory, NAME), tmp_path / "new" / NAME)
    report = verify(RealStorage(), str(tmp_path / "new"))
    assert (report.exit_code, "belongs to journal" in report.findings[0].message) == (12, True)


def test_the_key_in_journal_yaml_turns_it_on_and_everything_goes_on_as_before(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    assert journal("init", "--data", data).returncode == 0
    Path(data, "journal.yaml").write_text("durability: {strict: true}\n")
    event = {"type": "memory.entity_created", "scope": "global", "name": "Acme", "entity_type": "company"}
    done = journal("append", "--data", data, input=json.dumps({"event": event}))
    assert done.returncode == 0, done
    assert Path(data, "journal", NAME).stat().st_size == FILE_BYTES
    assert Path(data, "journal", NAME).stat().st_mode & 0o777 == 0o600
    for verb in ("check", "verify", "log"):
        assert journal(verb, "--data", data).returncode == 0
    segment_files(f"{data}/journal")[-1].unlink()
    for path in Path(data).glob("memory*"):
        path.unlink()
    for verb in (["check"], ["recover", "all", "--yes"], ["append"], ["log"]):
        assert journal(*verb, "--data", data, input="").returncode == 14, verb
    assert journal("verify", "--data", data).returncode == 12
    told = json.loads(journal("recover", "journal", "--accept-loss", "--dry-run", "--json", "--data", data).stdout)
    assert told["loss"]["lost"] == [[1, 1]]
