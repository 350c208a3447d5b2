"""What a restore undid: the changes on the timeline before it that are not on the one that it made current."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from journal.events import StateRestored, tag_of, type_dictionary
from journal.reader import LogReader
from journal.record import RECORD_CONTINUES_GROUP, RecordHead
from replay.timeline import Range, Restore

LINKS_MAX = 128  # what OpenTelemetry keeps of a span's links by default


def _changes_state(name: str) -> bool:
    return name.startswith(("memory.", "agent.", "conversation.")) and name != "agent.config_rejected"


_CHANGES = frozenset(tag for name, tag in type_dictionary().items() if _changes_state(name)) | {tag_of(StateRestored)}


@dataclass(frozen=True, slots=True)
class Undone:
    """How many changes, and of the newest `LINKS_MAX` (seq of the operation's first event, seq), ascending."""

    count: int = 0
    newest: tuple[tuple[int, int], ...] = ()


def undone_ranges(restores: Sequence[tuple[int, int]], seq: int, to_seq: int) -> list[Range]:
    """The ranges of the log that the restore at `seq` to `to_seq` took from the timeline; `restores` are those before.

    Pure: timelines are ranges, and their difference is one.
    """
    jumps = [jump for jump in (Restore(*pair) for pair in restores) if jump.jumps]
    return list(_without(_timeline(jumps, seq - 1), _timeline(jumps, to_seq)))


def _timeline(jumps: Sequence[Restore], target: int) -> list[Range]:
    """What led to state(target), ascending, the restores themselves with it: unlike a replay's way, where they are no
    events to apply."""
    found, last = [], target
    for jump in reversed(jumps):
        if jump.seq <= last:
            found.append(Range(jump.seq - 1, last))
            last = jump.to_seq
    return [Range(0, last), *reversed(found)]


def _without(ranges: Iterable[Range], others: Sequence[Range]) -> Iterator[Range]:
    for each in ranges:
        after = each.after
        for other in others:
            if other.last <= after or other.after >= each.last:
                continue
            if other.after > after:
                yield Range(after, other.after)
            after = max(after, other.last)
        if after < each.last:
            yield Range(after, each.last)


class _Type(msgspec.Struct, frozen=True, array_like=True, gc=False):
    type: int


class _Head(RecordHead, frozen=True, array_like=True, gc=False):
    traceparent: str | None
    event: _Type


_decode = msgspec.msgpack.Decoder(list[_Head]).decode


def look_up(reader: LogReader, ranges: Sequence[Range]) -> Undone:
    """The changes that lie in these ranges, by the log. What is kept is bounded, however much was undone."""
    count, newest = 0, deque[tuple[int, int]](maxlen=LINKS_MAX)
    for each in ranges:
        for batch in reader.batches(each.after + 1, each.last):
            first = batch.first_seq
            for seq, head in enumerate(_decode(batch.payload), batch.first_seq):
                if not head.flags & RECORD_CONTINUES_GROUP:
                    first = seq
                if each.after < seq <= each.last and head.event.type in _CHANGES:
                    count += 1
                    newest.append((first, seq))
    return Undone(count, tuple(newest))
