"""The small files beside a journal, and in what each damage of one must end.

The watermark of strict mode, parity and the list of repairs lie in the journal's directory. A head and journal.yaml lie
with a person: nothing sums up their bytes, so a changed one may be another valid one, and is then either refused by the
journal itself (a head) or taken at its word (a configuration).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

from journal.checkpoint import CheckpointStore, Part
from journal.errors import Corrupt, Unsupported, UsageError
from journal.files import write_file
from journal.parity_check import check_one
from journal.parity_store import ParityStore
from journal.reader import LogReader
from journal.repaired import Repair, write_pending
from journal.verify import verify
from journal.watermark import Mark, encode, read_watermark
from journal.witness import head_in, head_of, judge_head
from recovery.config.file import parse
from recovery.log.heads import head_json, parse_head
from tests.coroner import Coroner, WrongAnswer
from tests.ruin import Damage
from tests.specimen import Specimen, specimen

CONFIG = b"""# what an operator wrote
segment_bytes_max: 1048576
checkpoint:
  events: 1000
  agents: {writer: critical, "test-*": stateless}
parity: {share: 0.25, directory: /mnt/parity}
paths:
  agents: personas
embeddings:
  model: models/all-MiniLM-L6-v2
  hub: https://hub.example/models
durability:
  strict: true
redact:
  fields: [password, api_key]
  patterns: ["sk-[A-Za-z0-9]{20,}"]
"""


@cache
def with_small_files(seed: int = 0) -> Specimen:
    """The specimen with a watermark at its end and repairs that wait to be journaled."""
    subject = specimen(seed)
    view = subject.view()
    reader = LogReader(view, subject.root)
    mark = Mark(reader.last_seq, reader.last_chain, reader.batch_of(reader.last_seq).epoch)
    write_file(view, f"{subject.root}/watermark", encode(reader.journal_id, mark))
    write_pending(view, subject.root, [Repair(path="segments/x.seg", method="one bit", offset=100, bit=3)])
    return replace(subject, image=subject.image | _written(view.layer))


@cache
def with_parity(seed: int = 0) -> Specimen:
    subject = specimen(seed)
    view = subject.view()
    assert ParityStore(view, subject.root).fill().files > 8
    return replace(subject, image=subject.image | _written(view.layer))


def _written(layer: dict[str, bytes | bytearray | None]) -> dict[str, bytes]:
    return {path: bytes(data) for path, data in layer.items() if data is not None}


@cache
def coroner_of_small_files() -> Coroner:
    return Coroner(with_small_files())


@cache
def _head_and_log() -> tuple[bytes, LogReader]:
    reader = LogReader(specimen(0).view(), specimen(0).root)
    return head_json(head_of(reader)), reader


def texts() -> dict[str, bytes]:
    """The files that lie with a person."""
    return {"head.json": _head_and_log()[0], "journal.yaml": CONFIG}


def judge_watermark(damage: Damage) -> str:
    """It is named and no evidence any more; or what is left of it says what it said. The journal opens as ever."""
    coroner = coroner_of_small_files()
    subject = coroner.specimen
    view = subject.view(damage.changes)
    reader = LogReader(view, subject.root)
    found = read_watermark(view, subject.root, reader.journal_id)
    if found.mark not in (None, Mark(reader.last_seq, reader.last_chain, reader.batch_of(reader.last_seq).epoch)):
        raise WrongAnswer(f"{damage.what}: the watermark says {found.mark}")
    gone = damage.changes[damage.path] is None
    told = {each.path for each in verify(view, subject.root).findings if each.severity == "damage"}
    if told != (set() if gone else {damage.path}):
        raise WrongAnswer(f"{damage.what}: verify names {sorted(told)}")
    if coroner._open(damage) != "open":
        raise WrongAnswer(f"{damage.what}: a damaged watermark stops the opening")
    return "ignored by design" if gone else "passed over"


def judge_parity(damage: Damage, *, deep: bool) -> str:
    """It is named, and nothing but a repair reads it."""
    subject = with_parity()
    view = subject.view(damage.changes)
    store = ParityStore(view, subject.root)
    gone = damage.changes[damage.path] is None
    name = damage.path.removeprefix(f"{subject.root}/parity/").removesuffix(".par")
    if not gone and not any(each.is_damage and each.path == damage.path for each in check_one(store, name)):
        raise WrongAnswer(f"{damage.path}, {damage.what}: the check of parity finds nothing")
    if deep:
        told = {each.path for each in verify(view, subject.root).findings if each.severity == "damage"}
        if told != (set() if gone else {damage.path}):
            raise WrongAnswer(f"{damage.path}, {damage.what}: verify names {sorted(told)}")
    return "ignored by design" if gone else "refused"


def judge_part(damage: Damage) -> str:
    """By the one way on which parts are read: whatever comes of it elsewhere comes of this refusal."""
    subject = specimen(0)
    name = damage.path.rsplit("/", 1)[1]
    part = Part("part", name, len(subject.image[damage.path]))
    try:
        CheckpointStore(subject.view(damage.changes), f"{subject.root}/checkpoints").read_part(part)
    except Corrupt as error:
        if error.path == damage.path:
            return "refused"
        raise WrongAnswer(f"{name}, {damage.what}: {error}") from error
    raise WrongAnswer(f"{name}, {damage.what}: taken for the part")


def judge_text(name: str, data: bytes) -> str:
    """A declared refusal, or a text that is taken: then a head must still be this journal's, or be contradicted."""
    try:
        if name == "journal.yaml":
            config = parse(data, "/data/journal.yaml")
            assert not any(path.startswith("..") for path in (config.paths.agents, config.paths.memory_db))
            return "another valid text"
        head = parse_head(data.decode(errors="replace"))
    except (UsageError, Unsupported):
        return "refused"
    _, reader = _head_and_log()
    if head == head_of(reader):
        return "ignored by design"
    there = 1 <= head.seq <= reader.last_seq
    found = head_in(reader.batch_of(head.seq), head.seq, reader.journal_id) if there else None
    if judge_head(head, found, reader.journal_id.hex(), reader.last_seq, reader.directory) is None:
        raise WrongAnswer(f"a changed head passes: {data!r}")
    return "contradicted by the journal"


def every_change(data: bytes) -> Counter[bytes]:
    """Each flipped bit and each length of a text."""
    flips = (data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :] for at in range(len(data)) for bit in range(8))
    return Counter(flips) + Counter(data[:length] for length in range(len(data)))
