"""What can be repaired in manifests and parts, and how that is proven."""

from __future__ import annotations

import hashlib

from journal.checkpoint import CheckpointStore, Manifest, Part, decode_manifest
from journal.errors import Corrupt, DataError
from journal.events import StateRestored, TagCreated
from journal.format import KIND_MANIFEST, PROLOGUE_BYTES, decode_header
from journal.parity_store import listed_parts
from journal.reader import LogReader
from journal.repair_bench import NOT_REPAIRABLE, Bench
from journal.repair_segment import Mended, Step
from journal.syndrome import flips_in_header


def plan_checkpoints(bench: Bench) -> None:
    """Plans the repairs of all manifests, then those of the parts that the whole and the mended ones list."""
    store = CheckpointStore(bench.storage, f"{bench.directory}/checkpoints")
    manifests, damaged = store.scan()
    for each in damaged:
        mended = _mended(bench, each.path) if isinstance(each.error, Corrupt) else None
        if mended is None:
            bench.refuse(each.path, NOT_REPAIRABLE if isinstance(each.error, Corrupt) else each.error.message)
        else:
            bench.take(each.path, mended.data, mended.steps)
            manifests.append(decode_manifest(mended.data, each.path))
    for part in listed_parts(manifests):
        path = store.part_path(part)
        try:
            store.read_part(part)
        except Corrupt:
            restored = _cut_part(bench.data(path), part) or bench.from_parity(path)
            if restored is None or len(restored.data) < part.length:
                bench.refuse(path, "no parity restores it; restores use another checkpoint")
            else:
                bench.take(path, restored.data[: part.length], restored.steps)


def _cut_part(data: bytes, part: Part) -> Mended | None:
    """The part where nothing is wrong with it but bytes behind its end."""
    front = data[: part.length]
    if len(data) <= part.length or hashlib.sha256(front).hexdigest() != part.sha256:
        return None
    return Mended(front, (Step("cut", part.length, len(data) - part.length, proof="sha256"),))


def _cut_manifest(data: bytes, path: str) -> Mended | None:
    """As `_cut_part`: where a manifest ends its header says, whose CRC covers all of it."""
    try:
        end = PROLOGUE_BYTES + len(decode_header(data, KIND_MANIFEST, path))
        decode_manifest(data[:end], path)
    except DataError:
        return None
    return Mended(data[:end], (Step("cut", end, len(data) - end, proof="crc"),))


def _mended(bench: Bench, path: str) -> Mended | None:
    """The manifest without what follows its end; or by one bit, confirmed by its parity or by the log; else as its
    parity has it."""
    data = bench.data(path)
    cut = _cut_manifest(data, path)
    if cut is not None:
        return cut
    for flip in flips_in_header(data):
        tried = flip.applied_to(data)
        try:
            manifest = decode_manifest(tried, path)
        except DataError:
            continue
        if bench.matches_parity(path, tried):
            return Mended(tried, (Step("one bit", flip.offset, 1, flip.bit, proof="sha256"),))
        if _is_told_by_the_log(bench, manifest):
            return Mended(tried, (Step("one bit", flip.offset, 1, flip.bit, proof="chain"),))
    restored = bench.from_parity(path)
    if restored is None:
        return None
    try:
        # Its parity may be older than the manifest that rotted, where that was proven anew since: of the same state.
        manifest = decode_manifest(restored.data, path)
    except DataError:
        return None
    return restored if _has_the_chain_of(bench, manifest) else None


def _has_the_chain_of(bench: Bench, manifest: Manifest) -> bool:
    """True unless the log tells another history at the manifest's seq; what cannot be read refutes nothing."""
    try:
        reader = LogReader(bench.storage, bench.directory)
        return manifest.seq > reader.last_seq or reader.chain_at(manifest.seq).hex() == manifest.chain
    except DataError:
        return True


def _is_told_by_the_log(bench: Bench, manifest: Manifest) -> bool:
    """True if all that the manifest says of the log up to its seq is what the log says: chain, epoch, restores, tags.

    Its digest is proven whenever it is restored from, its parts by their names.
    """
    try:
        reader = LogReader(bench.storage, bench.directory)
        if manifest.journal_id != reader.journal_id.hex() or not 1 <= manifest.seq <= reader.last_seq:
            return False
        last = reader.batch_of(manifest.seq)
        if (last.chain.hex(), last.epoch) != (manifest.chain, manifest.epoch):
            return False
        restores: list[tuple[int, int]] = []
        tags: dict[str, int] = {}
        for batch in reader.batches(1, manifest.seq):
            for seq, record in enumerate(batch.records(), batch.first_seq):
                if seq > manifest.seq:
                    break
                if isinstance(record.event, StateRestored):
                    restores.append((seq, record.event.to_seq))
                elif isinstance(record.event, TagCreated):
                    tags[record.event.name] = record.event.seq
    except DataError:
        return False
    return (restores, tags) == (manifest.restores, manifest.tags)
