"""Following a log: its batches as they are appended, each once. Takes no lock.

Knows where the last batch ended, so that a poll reads only what came after it, however long the segment is. Bytes that
are no whole batch yet are looked at again by the next poll; whether they are damage is the verifier's to say.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from journal.format import decode_batch_header, decode_segment_header
from journal.reader import LogReader, list_segments
from journal.scan import Batch, Scanner

WINDOW_BYTES = 1 << 20


class Follower:
    """What is appended to the log after `reader` looked at it last. For one thread."""

    def __init__(self, reader: LogReader) -> None:
        self.reader = reader
        self.next_seq = reader.last_seq + 1
        self._stand_at_tail()

    def _stand_at_tail(self) -> None:
        tail = self.reader.tail
        self._segments = self.reader.segments
        self._offset, self._tail_seq, self._chain = tail.offset, tail.last_seq, tail.chain

    def poll(self) -> Iterator[Batch]:
        """The batches that are there now and were not given out before.

        A writer that takes over copies what its predecessor left into a segment of its own: those batches were given
        out already, and reading goes on behind them. Raises what reading the log raises.
        """
        yield from self._appended()
        if list_segments(self.reader.storage, self.reader.directory) == self._segments:
            return
        self.reader.refresh()  # the new segment says where the one before it ended: read to there by the book
        yield from self._given(self.reader.batches(self.next_seq, self.reader.last_seq))
        self._stand_at_tail()

    def _given(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.next_seq = batch.last_seq + 1
            yield batch

    def _appended(self) -> Iterator[Batch]:
        """Whole batches behind the known tail of the segment that was the last."""
        path = self._segments[-1].path
        try:
            file = self.reader.storage.open(path)
        except FileNotFoundError:
            return  # the list of segments says what took its place
        try:
            header, _ = decode_segment_header(file.read_at(0, 64 << 10), path)
            window = WINDOW_BYTES
            while True:
                data = file.read_at(self._offset, window)
                found = decode_batch_header(data, 0)
                if found is None:
                    return
                if found.total_bytes > len(data) == window:  # a batch that is longer than the window
                    window = found.total_bytes
                    continue
                scanner = Scanner(data, 0, header, path)
                scanner.next_seq, scanner.chain = self._tail_seq + 1, self._chain
                at = self._offset
                yield from self._given(
                    msgspec.structs.replace(each, offset=at + each.offset, end=at + each.end) for each in scanner
                )
                if not scanner.offset:
                    return
                self._offset, self._tail_seq, self._chain = at + scanner.offset, scanner.next_seq - 1, scanner.chain
        finally:
            file.close()
