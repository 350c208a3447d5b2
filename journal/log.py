"""Writing a log: one writer, its lock and epoch, the open after a crash, batches, rotation.

A `Log` is used by one thread at a time (`journal.commit` sees to that). Every error while a batch is written or synced
poisons it: nothing is acknowledged any more and the sync is never retried, since the kernel may have dropped the pages
and would report success. What an interrupted writer left is settled by the next `open`, before anything builds on it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter_ns

import msgspec

from journal.errors import JournalError, Locked, NoSpace, NotAJournal, OutcomeUnknown, Poisoned, Unsupported, reason_of
from journal.files import read_bounded
from journal.format import (
    BATCH_HEADER_BYTES,
    CHAIN_GENESIS,
    PAYLOAD_BYTES_MAX,
    TRAILER_BYTES,
    SegmentHeader,
    encode_batch,
    next_chain,
)
from journal.holder import LOCK_BYTES_MAX, Holder, encode_holder, read_holder
from journal.opening import Opening, settle
from journal.past import Past, Places
from journal.reader import LogReader, Tail
from journal.record import array_of
from journal.segment import SegmentWriter, segment_key, segment_name
from journal.storage import Lock, Storage
from journal.watermark import Mark, Watermark, read_watermark

SEGMENT_BYTES_MAX = 16 << 20
RESERVE_BYTES = 16 << 20
EPOCH_MAX = (1 << 32) - 2
CLAIM_MAX = 1 << 31  # an epoch above it in the lock file is nobody's: believed, it would leave the journal none


class Appended(msgspec.Struct, frozen=True, gc=False):
    """A durable batch: its first seq, number of records, the chain after it and the writer's epoch."""

    first_seq: int
    count: int
    chain: bytes
    epoch: int


def create(
    storage: Storage,
    directory: str,
    journal_id: bytes | None = None,
    *,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
) -> bytes:
    """Lays out an empty journal under `directory` and returns its id (16 bytes). Durable when it returns."""
    journal_id = journal_id or entropy(16)
    for folder in ("segments", "checkpoints", "quarantine"):
        storage.make_directory(f"{directory}/{folder}")
    header = SegmentHeader(journal_id, entropy(8), 1, 1, 0, 0, 0, CHAIN_GENESIS)
    SegmentWriter.create(storage, f"{directory}/segments", header).close_clean(1, CHAIN_GENESIS)
    return journal_id


class Log:
    """The writer of one journal. Use `Log.open`; `close` releases the lock."""

    def __init__(
        self,
        storage: Storage,
        directory: str,
        lock: Lock,
        holder: bytes,
        epoch: int,
        reader: LogReader,
        opening: Opening,
        segment: SegmentWriter | None,
        *,
        segment_bytes_max: int,
        reserve_bytes: int,
        entropy: Callable[[int], bytes],
        watermark: Watermark | None = None,
    ) -> None:
        self.storage = storage
        self.directory = directory
        self.journal_id = reader.journal_id
        self.epoch = epoch
        self.opening = opening
        self.next_seq = reader.last_seq + 1
        self.chain = reader.last_chain
        self.last_time = reader.last_time
        self.durable_seq = reader.last_seq
        self.sync_ns = 0  # how long the last batch took to write and sync
        self.poisoned: str | None = None
        self._lock = lock
        self._holder = holder
        self._take_up(segment)
        self._previous: Tail = reader.tail
        self._segment_bytes_max = segment_bytes_max
        self._reserve_bytes = reserve_bytes
        self._entropy = entropy
        self._watermark = watermark

    @classmethod
    def open(
        cls,
        storage: Storage,
        directory: str,
        *,
        evidence_seq: int = 0,
        holder: Holder | None = None,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        reserve_bytes: int = RESERVE_BYTES,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        accept_tail: bool = False,
        strict: bool = False,
    ) -> Log:
        """Takes the lock, raises the epoch, and settles what an interrupted writer left (see `settle`).

        `evidence_seq` is the last seq that something outside the log knows to have been durable (memory.db's position,
        a checkpoint, a receipt). A `strict` writer syncs a watermark after each batch, before it acknowledges: evidence
        that needs nothing else. Raises NotAJournal, Locked, Corrupt, AmbiguousTail, Diverged, Unsupported.
        """
        if storage.kind(f"{directory}/segments") != "directory":
            raise NotAJournal("no journal here", path=directory, hint="create one with: journal init")
        lock = take_lock(storage, directory)
        try:
            reader = LogReader(storage, directory, evidence_seq=evidence_seq)
            claimed = read_holder(lock.read()).epoch
            previous_epoch = max(claimed if claimed <= CLAIM_MAX else 0, reader.tail.epoch)
            epoch = previous_epoch + 1
            if epoch > EPOCH_MAX:
                raise Unsupported("no epoch is left for another writer", path=reader.tail.path, offset=44)
            claim = encode_holder(msgspec.structs.replace(holder or Holder(), epoch=epoch))
            lock.write(claim)
            storage.sync_dir(directory)  # a lock file whose name a power cut takes would hand its epoch out again
            opening, segment = settle(storage, directory, reader, previous_epoch, epoch, entropy, accept_tail)
            if segment is not None:
                reader.refresh()
            watermark, problems = _watermark(storage, directory, reader, epoch, strict)
            opening = replace(opening, watermark_problems=problems)
            return cls(
                storage, directory, lock, claim, epoch, reader, opening, segment,
                segment_bytes_max=segment_bytes_max, reserve_bytes=reserve_bytes, entropy=entropy,
                watermark=watermark,
            )  # fmt: skip
        except BaseException:
            lock.release()
            raise

    def append(self, records: list[bytes], time: int) -> Appended:
        """As `append_payload`, of records that are encoded already."""
        return self.append_payload(array_of(records), len(records), time)

    def append_payload(
        self, payload: bytes, count: int, time: int, meanwhile: Callable[[Appended], None] | None = None
    ) -> Appended:
        """Writes `count` encoded records as one batch and returns once it is durable. `time` is the last record's.

        `meanwhile` is called while the disk is at work: the batch is written then, and not known to be durable.
        Whatever it raises is as bad as a failed sync. Raises NoSpace before a byte was written (nothing took a seq),
        Poisoned if the log failed earlier, and OutcomeUnknown if the write or the sync failed: the batch may or may not
        survive, and the log is poisoned.
        """
        self._check_alive()
        if not count or len(payload) > PAYLOAD_BYTES_MAX:  # no reader would take such a batch for one
            raise ValueError(f"{count} records of {len(payload)} bytes are no batch")
        segment = self._segment_for(BATCH_HEADER_BYTES + len(payload) + TRAILER_BYTES)
        first_seq = self.next_seq
        batch = encode_batch(
            segment.header, epoch=self.epoch, flags=0, first_seq=first_seq, count=count, payload=payload,
            durable_seq=self.durable_seq, previous_chain=self.chain, offset=segment.offset,
        )  # fmt: skip
        started = perf_counter_ns()
        try:
            segment.begin(batch)
            chain = next_chain(self.chain, first_seq, count, payload)
            appended = Appended(first_seq, count, chain, self.epoch)
            if meanwhile is not None:
                paused = perf_counter_ns()
                meanwhile(appended)
                started += perf_counter_ns() - paused
            segment.sync(len(batch))
            if self._watermark is not None:
                self._watermark.advance(Mark(first_seq + count - 1, chain, self.epoch))
            if not self._lock.is_held():  # who took it meanwhile may have read the log before this batch was in it
                raise Poisoned("the lock file was replaced while it was written")
        except BaseException as error:  # Ctrl-C between write and sync leaves the outcome as unknown as EIO does
            self.poison(f"a batch at seq {first_seq} failed: {reason_of(error)}")
            raise OutcomeUnknown(
                f"writing seq {first_seq} failed: {reason_of(error)}",
                seq=first_seq,
                hint="open the journal again, then ask for its op_id",
            ) from error
        self.sync_ns = perf_counter_ns() - started
        self._places.note(first_seq, segment.offset - len(batch), self.chain)
        self.next_seq = first_seq + count
        self.chain = chain
        self.durable_seq = self.next_seq - 1
        self.last_time = time
        return appended

    def _check_alive(self) -> None:
        if self.poisoned is not None:
            raise Poisoned(f"the log takes nothing more: {self.poisoned}", hint="close it and open it again")
        if not self._lock.is_held():
            self.poison("the lock file was replaced, or this is a forked child")
        elif self._lock.read() != self._holder:
            self.poison("another writer raised the epoch")
        if self.poisoned is not None:
            raise Poisoned(f"this writer lost the journal: {self.poisoned}", hint="close it and open it again")

    def _segment_for(self, length: int) -> SegmentWriter:
        """The segment with `length` bytes reserved: the open one, or the next."""
        segment = self._segment
        if segment is not None and segment.offset > segment.start:
            full = segment.offset + length > self._segment_bytes_max
        else:
            full = segment is None
        if full:
            segment = self._next_segment()
        assert segment is not None
        if segment.offset + length <= segment.filled:
            return segment
        try:
            segment.reserve(length, self._reserve_bytes)
        except NoSpace:
            raise
        except BaseException as error:
            self.poison(f"zero-filling failed: {error}")
            raise
        return segment

    def _next_segment(self) -> SegmentWriter:
        """Creates the segment that continues at `next_seq`; the one before ends where its last batch did."""
        before = self._segment
        if before is not None:
            link = (before.header.first_seq, before.header.epoch, before.offset)
        else:
            # Before its clean close: nothing says that the close's own sync did not fail, and a cut may take it.
            previous = self._previous
            link = (*segment_key(previous.path), previous.records_end)
        if self._reserve_bytes and self.storage.free_bytes(self.directory) < self._reserve_bytes:
            raise NoSpace("no space for the next segment", path=self.directory, hint="free some disk space")
        header = SegmentHeader(
            self.journal_id, self._entropy(8), self.epoch, self.next_seq, *link, self.chain,
            extra={"durable_seq": self.durable_seq},
        )  # fmt: skip
        try:
            after = SegmentWriter.create(self.storage, f"{self.directory}/segments", header)
        except BaseException as error:
            self._doubt_segment(header, error)
            raise
        self._take_up(after)
        if before is not None:
            before.trim()
            before.close()
        return after

    def _take_up(self, segment: SegmentWriter | None) -> None:
        self._segment = segment
        if segment is not None:
            self._places = Places(segment.path, segment.header, segment.start)

    def _doubt_segment(self, header: SegmentHeader, error: BaseException) -> None:
        """Poisons the log where a segment that failed to be made has its name: it says where the one before ends, so
        a smaller batch that still fits there would be void."""
        path = f"{self.directory}/segments/{segment_name(header.first_seq, header.epoch)}"
        try:
            there = self.storage.kind(path) != "missing"
        except JournalError:
            there = True
        if there:
            self.poison(f"creating a segment failed: {error}")

    @contextmanager
    def into_reserve(self) -> Iterator[None]:
        """Within it, appending may use the space that is kept free: it is kept for what recovery has to say."""
        kept, self._reserve_bytes = self._reserve_bytes, 0
        try:
            yield
        finally:
            self._reserve_bytes = kept

    def poison(self, reason: str) -> None:
        """From here on nothing is acknowledged. The first reason is kept."""
        self.poisoned = self.poisoned or reason

    def reader(self) -> LogReader:
        """A reader of everything durable so far."""
        return LogReader(self.storage, self.directory)

    def past(self) -> LogReader:
        """The same at a fraction of the cost: it takes this writer's word for where the log ends."""
        segment = self._segment
        if segment is None:
            return self.reader()
        known = self._places.until(self.next_seq, segment.offset, self.chain)
        return Past(self.storage, self.directory, segment.path, known)

    def close(self) -> None:
        """Marks a clean close where something was written, and releases the lock. Never raises for a poisoned log."""
        segment, self._segment = self._segment, None
        try:
            if segment is not None:
                if self.poisoned is None and self._lock.is_held():
                    segment.close_clean(self.next_seq, self.chain)
                else:
                    segment.close()
        finally:
            if self._watermark is not None:
                self._watermark.close()
            self.poison("it is closed")
            self._lock.release()


def _watermark(
    storage: Storage, directory: str, reader: LogReader, epoch: int, strict: bool
) -> tuple[Watermark | None, tuple[str, ...]]:
    """A strict writer's watermark, made anew; and why the one that was there could not be believed.

    Any writer replaces one that is damaged: what it said of this log is settled by now.
    """
    found = read_watermark(storage, directory, reader.journal_id)
    problems = tuple(str(each) for each in found.problems)
    if not strict and not problems:
        return None, ()
    watermark = Watermark(storage, directory, reader.journal_id, Mark(reader.last_seq, reader.last_chain, epoch))
    if strict:
        return watermark, problems
    watermark.close()
    return None, problems


def take_lock(storage: Storage, directory: str) -> Lock:
    """The one writer's lock. Raises Locked, which names the holder."""
    lock = storage.lock(f"{directory}/lock")
    if lock is None:
        raise _locked(storage, directory)
    if not lock.is_held():  # the directory, or the file, was put aside between opening and locking it
        lock.release()
        raise Locked("the journal was replaced a moment ago", path=f"{directory}/lock", hint="try again")
    return lock


def _locked(storage: Storage, directory: str) -> Locked:
    holder = read_holder(read_bounded(storage, f"{directory}/lock", LOCK_BYTES_MAX))
    who = f"process {holder.pid}" + (f" ({holder.command})" if holder.command else "") if holder.pid else "a process"
    return Locked(
        f"another writer holds this journal: {who}, epoch {holder.epoch}",
        path=f"{directory}/lock",
        hint="stop it first, or use a reading verb, which takes no lock",
    )
