"""A moment as a user spells it → the seq that it means in one journal.

Knows where times, tags and the clock come from; the spellings and the rule are `replay.moment`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from journal.reader import LogReader
from recovery.data import Data
from recovery.evidence import raise_for_end
from replay.moment import AtSeq, AtTag, parse, resolve


def resolve_moment(
    data: Data,
    reader: LogReader,
    text: str,
    exclusive: bool = False,
    *,
    clock: Callable[[], int] = time.time_ns,
) -> int:
    """The seq that `text` means: the greatest not after it, or with `exclusive` the greatest before it.

    The log is read only for a tag (what follows the newest checkpoint) and for a time (one segment). Raises UsageError
    for what is no moment, a seq beyond the end and an unknown tag; Corrupt or AmbiguousTail where the answer would be
    the end and the end is damaged, since what lies there may belong to the moment too; Diverged where it is gone.
    """
    moment = parse(text)
    tags: dict[str, int] = {}
    if isinstance(moment, AtTag):
        from replay.history import read_history  # few name one

        tags = read_history(reader, data.checkpoints).tags
    elif isinstance(moment, AtSeq) and moment.seq > reader.last_seq:
        raise_for_end(data, reader)
    seq = resolve(
        moment, last_seq=reader.last_seq, seq_at=reader.seq_at, tags=tags, now_ns=clock(), exclusive=exclusive
    )
    if seq == reader.last_seq and not isinstance(moment, AtSeq | AtTag):
        raise_for_end(data, reader)
    return seq
