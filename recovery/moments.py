"""A moment as a user spells it → the seq that it means in one journal.

Knows where times, tags and the clock come from; the spellings and the rule are `replay.moment`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from journal.reader import LogReader
from recovery.data import Data
from replay.history import read_history
from replay.moment import AtTag, parse, resolve


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
    for what is no moment, a seq beyond the end and an unknown tag.
    """
    moment = parse(text)
    tags = read_history(reader, data.checkpoints).tags if isinstance(moment, AtTag) else {}
    return resolve(
        moment, last_seq=reader.last_seq, seq_at=reader.seq_at, tags=tags, now_ns=clock(), exclusive=exclusive
    )
