"""A whole journal of exactly 64 KiB, small enough to be damaged at every bit, and what is true of it.

It has what a journal can have: clean closes, a kill with batches that the next writer carried, rotations, void bytes,
zero fill, groups, restores, blank sectors by content, two verified checkpoints that share parts, and vectors.
"""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import msgspec

from journal.checkpoint import KIND_EMBEDDINGS, CheckpointStore, Manifest
from journal.events import ConfigWritten
from journal.format import KIND_PLAN, encode_header
from journal.holder import Holder
from journal.log import Log
from journal.reader import LogReader
from journal.segment import segment_key
from replay.checkpoints import make_checkpoint
from replay.layout import Layout
from replay.model import Model
from tests.histories import SeededSource, Step, Vouched, encoded, growing, vouching
from tests.journals import START, abandon, journal_in, segment_files
from tests.overlay import Image, View, image_of
from tests.second_reader import read_journal, segments_in

SEGMENT_BYTES = 64 << 10  # of all segments together


@dataclass(frozen=True)
class Specimen:
    """``payloads`` are the batches' in order, ``padding`` says from which offset on a segment's bytes mean nothing."""

    root: str
    image: Image
    payloads: list[bytes]
    segments: list[str]
    padding: dict[str, int]
    last_seq: int
    digest: str
    manifests: list[Manifest]

    def view(self, changes: dict[str, bytes | None] | None = None, *, note_reads: bool = False) -> View:
        return View(self.root, self.image, changes, note_reads=note_reads)

    def is_padding(self, path: str, offset: int) -> bool:
        return path in self.padding and offset >= self.padding[path]

    def files(self, kind: str) -> list[str]:
        """Paths by kind: segment, manifest, part, lock, plan, and watermark or parity where there are any."""
        return [path for path in self.image if kind_of(path) == kind]


def kind_of(path: str) -> str:
    name = path.rsplit("/", 1)[1]
    if name.endswith(".par"):
        return "parity"
    if "/segments" in path:
        return "segment"
    if "/parts/" in path:
        return "part"
    if name.endswith(".manifest"):
        return "manifest"
    return name if name in ("lock", "watermark") else "plan"


@cache
def specimen(seed: int = 0) -> Specimen:
    """Made anew from the seed, in a directory that is gone when this returns."""
    with tempfile.TemporaryDirectory(prefix="journal-specimen-", dir=memory()) as scratch:
        return _made(Path(scratch), seed)


def memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _made(root: Path, seed: int) -> Specimen:
    rng = random.Random(seed)
    storage, directory = journal_in(root, journal_id=rng.randbytes(16))
    model, source = Model(), SeededSource(seed)
    layout = Layout.under(str(root))
    full = SEGMENT_BYTES - (3 << 10)
    made: Vouched | None = None
    for events, end in ((60, "close"), (110, "kill"), (150, "close"), (None, "kill")):
        log = Log.open(storage, directory, segment_bytes_max=7 << 10, entropy=rng.randbytes, holder=Holder(pid=712))
        if made is not None:
            step = vouching(made, model, START + model.position)
            log.append(encoded([step]), step.time)
            made = None
        while model.position < events if events else _written_bytes(directory, log) < full:
            steps = _batch(rng, source, model)
            log.append(encoded(steps), steps[-1].time)
        if end == "close":
            log.close()
            shadow = make_checkpoint(storage, layout, lambda: START)
            made = Vouched(shadow.seq, shadow.digest, shadow.manifest)
            if events == 150:
                made = _with_vectors(CheckpointStore(storage, f"{directory}/checkpoints"), made)
        else:
            abandon(log)
            assert log._segment is not None
            os.truncate(log._segment.path, log._segment.offset + 700)  # a little of its zero fill
    *before, last = segment_files(directory)
    os.truncate(last, SEGMENT_BYTES - sum(path.stat().st_size for path in before))
    for name in ("recovery.json", "import.json"):
        body = b'{"recovery_id": "%s", "source": "/var/lib/old", "steps": []}' % rng.randbytes(8).hex().encode()
        Path(directory, name).write_bytes(encode_header(KIND_PLAN, body))
    return _described(directory, model)


def _batch(rng: random.Random, source: SeededSource, model: Model) -> list[Step]:
    steps = list(growing(source, model, rng.choice((1, 1, 2, 3, 8)), restores=40 if model.position < 40 else 0))
    if rng.random() < 0.04:  # sectors that are blank by content
        step = Step(model.position + 1, steps[-1].time, None, ConfigWritten("zeros", bytes(1500), "0" * 64))
        model.apply(step.seq, step.time, step.agent, step.event)
        steps.append(step)
    return steps


def _written_bytes(directory: str, log: Log) -> int:
    """What all segments hold without zero fill."""
    *before, last = segment_files(directory)
    return sum(path.stat().st_size for path in before) + (log._segment.offset if log._segment else last.stat().st_size)


def _with_vectors(store: CheckpointStore, made: Vouched) -> Vouched:
    """The newest checkpoint gets a part of vectors. They fit no text, so that none is ever taken from it."""
    newest = store.manifests()[0]
    part, _ = store.put_part(KIND_EMBEDDINGS, random.Random(1).randbytes(600))
    whole = msgspec.structs.replace(newest, parts=[*newest.parts, part])
    store.publish(whole)
    return made._replace(manifest=whole.fingerprint)


def _described(directory: str, model: Model) -> Specimen:
    image = image_of(directory)
    view = View(directory, image)
    reader = LogReader(view, directory)
    batches = list(reader.batches())
    assert batches[-1].last_seq == model.position
    ends = {str(path): after.previous_end for (path, _, _), (_, _, after) in pairwise(segments_in(Path(directory)))}
    segments = [segment.path for segment in reader.segments]
    padding = ends | {segments[-1]: read_journal(Path(directory)).end}
    assert sum(len(image[path]) for path in segments) == SEGMENT_BYTES
    assert len({segment_key(path)[0] for path in segments}) > 4
    return Specimen(
        directory, image, [bytes(batch.payload) for batch in batches], segments, padding, model.position,
        model.digest(), CheckpointStore(view, f"{directory}/checkpoints").manifests(),
    )  # fmt: skip
