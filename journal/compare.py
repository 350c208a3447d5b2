"""Two copies of one journal, compared: the same, one ahead of the other, or two histories, and from which seq on.

Chains decide, never times or names: once they differ they never meet again, so the place where two copies part is
found by bisection. Changes nothing in either.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from journal.errors import DataError, Diverged, Unsupported
from journal.format import CHAIN_GENESIS
from journal.reader import LogReader
from journal.witness import Head, head_in

Standing = Literal["same", "ahead", "behind", "diverged"]


class Compared(msgspec.Struct, frozen=True):
    """How a journal stands to another copy of itself.

    They are the same up to ``common_seq``; where they diverged, ``first_differing_seq`` is the one behind it, and
    ``here`` and ``there`` say what each holds at that seq (chain, epoch, time). ``unreadable`` names the copy that is
    damaged behind the seqs that were compared.
    """

    standing: Standing
    common_seq: int
    first_differing_seq: int | None
    here_last_seq: int
    there_last_seq: int
    here: Head | None = None
    there: Head | None = None
    unreadable: str | None = None
    exit_code: int = 0  # 14 where they diverged, else that of the damage


def compare(here: LogReader, there: LogReader) -> Compared:
    """Compares as far as both can be read. Raises Diverged if they are no copies of one journal."""
    if here.journal_id != there.journal_id:
        raise Diverged(
            f"{there.directory} is journal {there.journal_id.hex()}, this is {here.journal_id.hex()}: no copies of one",
            path=there.directory,
        )
    (here_last, here_damage), (there_last, there_damage) = _readable(here), _readable(there)
    error = here_damage or there_damage
    damage, exit_code = (str(error), error.exit_code) if error is not None else (None, 0)
    last = min(here_last, there_last)
    low, high = 0, last  # the chains are equal at low, and differ behind high if at all
    if _chain(here, last) != _chain(there, last):
        while low < high:
            middle = (low + high + 1) // 2
            if _chain(here, middle) == _chain(there, middle):
                low = middle
            else:
                high = middle - 1
    else:
        low = last
    if low == last:
        standing: Standing = "same" if here_last == there_last else "ahead" if here_last > there_last else "behind"
        return Compared(standing, low, None, here_last, there_last, unreadable=damage, exit_code=exit_code)
    seq = low + 1
    return Compared(
        "diverged", low, seq, here_last, there_last, head_in(here.batch_of(seq), seq, here.journal_id),
        head_in(there.batch_of(seq), seq, there.journal_id), damage, Diverged.exit_code,
    )  # fmt: skip


def diverged_error(found: Compared, path: str, hint: str) -> Diverged:
    """The error for two histories: names the first seq that differs, and both chains and epochs there."""
    assert found.here is not None
    assert found.there is not None
    return Diverged(
        f"two histories: the same up to seq {found.common_seq}, then seq {found.first_differing_seq} is of epoch "
        f"{found.here.epoch} with chain {found.here.chain[:16]}… here, of epoch {found.there.epoch} with chain "
        f"{found.there.chain[:16]}… there",
        path=path,
        seq=found.first_differing_seq,
        hint=hint,
    )


def _chain(reader: LogReader, seq: int) -> bytes:
    return reader.chain_at(seq) if seq else CHAIN_GENESIS


def _readable(reader: LogReader) -> tuple[int, DataError | None]:
    """The last seq up to which everything can be read, and the damage behind it. Raises Unsupported."""
    last = 0
    try:
        for batch in reader.batches():
            last = batch.last_seq
    except Unsupported:
        raise
    except DataError as error:
        return last, error
    return last, None
