"""The specimen with its sealed segments packed, and journals to pack."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from journal.events import ObservationAdded
from journal.log import Log
from journal.pack import find_pack
from journal.packing import pack_segments
from journal.reader import LogReader
from journal.segment import is_packed
from journal.storage import Storage
from tests.journals import START, journal_in, record
from tests.overlay import image_of
from tests.samples import WORDS
from tests.specimen import Specimen, memory, specimen


@cache
def packed_specimen(seed: int = 0) -> Specimen:
    """As `specimen`; all segments but the last two are packed, however small."""
    subject = specimen(seed)
    view = subject.view()
    assert pack_segments(view, subject.root, bytes_min=1).segments > 8
    image = {path: bytes(view.content(path)) for path in view.names() if not path.endswith("/lock")}
    image |= {path: data for path, data in subject.image.items() if path.endswith("/lock")}
    segments = sorted(path for path in image if "/segments/" in path)
    padding = {path: offset for path, offset in subject.padding.items() if path in image}
    return replace(subject, image=image, segments=segments, padding=padding)


@cache
def packed_journal() -> Specimen:
    """Packs of some blocks each, and the last two segments, in memory: reading and damaging it costs no disk."""
    with tempfile.TemporaryDirectory(prefix="journal-packed-", dir=memory()) as scratch:
        storage, directory = journal_in(Path(scratch))
        write_segments(storage, directory, 150, 41, segment=256 << 10)
        assert pack_segments(storage, directory).segments
        reader = LogReader(storage, directory)
        segments = [each.path for each in reader.segments]
        payloads = [bytes(each.payload) for each in reader.batches()]
        return Specimen(directory, image_of(directory), payloads, segments, {}, reader.last_seq, "", [])


def header_ends(subject: Specimen, path: str) -> tuple[int, int]:
    """Where the first header of a pack ends, and where its copy begins."""
    pack = find_pack(subject.image[path], path)
    return pack.header_bytes, pack.copy_at


def packs(subject: Specimen) -> list[str]:
    return [path for path in subject.segments if is_packed(path)]


def write_segments(storage: Storage, directory: str, batches: int, together: int = 3, segment: int = 64 << 10) -> Log:
    """Appends until there are some segments, and closes. Texts of a sentence each, all different."""
    log = Log.open(storage, directory, segment_bytes_max=segment, reserve_bytes=0)
    number = log.next_seq
    for _ in range(batches):
        made = []
        for _ in range(together):
            words = " ".join(WORDS[number * step % len(WORDS)] for step in range(1, 12))
            made.append(record(number, ObservationAdded("global", f"customer {number % 97}", f"{number} {words}")))
            number += 1
        log.append(made, START + (number - 1) * 1000)
    log.close()
    return log
