"""A share of `make faults` hostile: files made to do harm give declared errors, in bounded time and memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from journal.checkpoint import CheckpointStore
from journal.errors import Corrupt, Unsupported
from journal.format import KIND_MANIFEST, PROLOGUE_BYTES, decode_segment_header, encode_header
from journal.log import CLAIM_MAX, EPOCH_MAX, Log
from journal.reader import LogReader
from journal.storage import RealStorage
from journal.verify import verify
from tests.commands import ENVIRONMENT, ROOT
from tests.faults.hostile import files_seed, judged, yaml_seed
from tests.hostile import bombs, hostile_yaml, json_bombs, segment_with
from tests.journals import append, journal_in, segment_files
from tests.specimen import specimen


@pytest.mark.parametrize("first", range(0, 240, 60))
def test_files_with_something_odd_behind_their_checksums(first: int) -> None:
    outcomes = sum((files_seed(seed) for seed in range(first, first + 60)), start=files_seed(first))
    assert outcomes["refused"] > 30
    assert outcomes["taken"] > 30


@pytest.mark.parametrize("seed", range(6))
def test_yaml_that_readers_crash_on(seed: int) -> None:
    assert yaml_seed(seed)["texts"] == 20


BOMBED = """
from tests.faults.hostile import judged
from tests.test_faults_hostile import bombed
for name, changes in bombed():
    judged(changes, name)
print("survived")
"""


def bombed():
    """The specimen with each bomb as payload and as type dictionary of a segment, and as manifest and plan."""
    subject = specimen()
    path = subject.segments[-1]
    data = subject.image[path]
    for name, bomb in bombs().items():
        yield name, {path: segment_with(data, path, payload=lambda index, body, bomb=bomb: body if index else bomb)}
        yield name, {path: segment_with(data, path, header=lambda body, bomb=bomb: body[:96] + bomb)}
    for name, bomb in json_bombs().items():
        yield name, {subject.files("manifest")[0]: encode_header(KIND_MANIFEST, bomb)}
        yield name, dict.fromkeys(subject.files("lock"), bomb)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds memory on Linux alone")
def test_bombs_do_not_take_the_memory_that_they_claim() -> None:
    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    ran = subprocess.run([sys.executable, "-c", BOMBED], capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT,
                         preexec_fn=bounded, timeout=300, check=False)  # fmt: skip
    assert ran.stdout.strip() == "survived", ran.stderr[-3000:]


@pytest.mark.parametrize("length", [1 << 31, 1 << 40])
def test_a_sparse_file_of_any_length_is_named_and_not_read(tmp_path: Path, length: int) -> None:
    storage, directory = journal_in(tmp_path)
    os.truncate(segment_files(directory)[-1], length)
    with pytest.raises(Corrupt, match="none is that long"):
        LogReader(storage, directory)
    assert verify(storage, directory).exit_code == 12
    Path(directory, "checkpoints", f"{7:016d}.manifest").touch()
    os.truncate(Path(directory, "checkpoints", f"{7:016d}.manifest"), length)
    (damaged,) = CheckpointStore(storage, f"{directory}/checkpoints").damaged()
    assert "at most" in str(damaged.error)


def test_a_valid_end_that_no_file_has_is_no_claim_on_memory(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    append(log, 1)
    log.close()
    last = segment_files(directory)[-1]
    data = last.read_bytes()
    _, start = decode_segment_header(data, str(last))
    body = bytearray(data[PROLOGUE_BYTES:start])
    body[56:64] = (1 << 50).to_bytes(8, "little")
    last.write_bytes(encode_header(1, bytes(body)) + data[start:])
    with pytest.raises(Corrupt):
        list(LogReader(storage, directory).batches())


@pytest.mark.parametrize("name", ["0000000000000001-000001.seg", "0000000000000099-000009.seg"])
def test_a_pipe_with_the_name_of_a_segment_does_not_hang(tmp_path: Path, name: str) -> None:
    _, directory = journal_in(tmp_path)
    path = Path(directory, "segments", name)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    program = f"""
from journal.errors import JournalError
from journal.reader import LogReader
from journal.storage import RealStorage
try:
    LogReader(RealStorage(), {directory!r})
except JournalError as error:
    print(error.path)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT, timeout=60,
                         check=False)  # fmt: skip
    assert ran.stdout.strip() == str(path), ran.stderr


@pytest.mark.parametrize("claimed", [CLAIM_MAX + 1, EPOCH_MAX - 1, EPOCH_MAX, EPOCH_MAX + 1, 1 << 64, -1])
def test_a_lock_file_that_claims_the_last_epoch_does_not_take_it_from_the_journal(tmp_path: Path, claimed: int) -> None:
    storage, directory = journal_in(tmp_path)
    Path(directory, "lock").write_text(f'{{"epoch": {claimed}}}')
    for number in (1, 2, 3):
        log = Log.open(storage, directory)
        append(log, number)
        log.close()
    assert LogReader(storage, directory).tail.epoch == 4


def test_a_journal_whose_segments_used_up_all_epochs_says_so(tmp_path: Path) -> None:
    _, directory = journal_in(tmp_path)
    (path,) = segment_files(directory)
    data = path.read_bytes()
    header, start = decode_segment_header(data, str(path))
    body = bytearray(data[PROLOGUE_BYTES:start])
    body[24:28] = EPOCH_MAX.to_bytes(4, "little")
    path.write_bytes(encode_header(1, bytes(body)) + data[start:])
    path.rename(path.with_name(f"{header.first_seq:016d}-{EPOCH_MAX}.seg"))
    with pytest.raises(Unsupported, match="no epoch is left"):
        Log.open(RealStorage(), directory)


def test_the_hostile_yaml_is_not_all_refused_at_its_first_byte() -> None:
    import random

    assert len({hostile_yaml(random.Random(seed))[:40] for seed in range(50)}) > 30
    assert judged({}, "nothing changed")["taken"] == 4
