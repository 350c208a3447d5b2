"""What the lock file says of the process that holds the journal, or held it last. Pure.

Whoever asks who is writing reads this and no more: taking the lock is `journal.log`'s.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from journal.format import SECTOR_BYTES

LOCK_BYTES_MAX = 65536


class Holder(msgspec.Struct):
    """What the lock file says of the process that holds it, or held it last."""

    epoch: Annotated[int, msgspec.Meta(ge=0, lt=(1 << 32) - 1)] = 0
    pid: int = 0
    command: str = ""


def encode_holder(holder: Holder) -> bytes:
    """The lock file's content: one sector, always of the same length, so that a cut leaves the old claim or the new."""
    command = holder.command.encode(errors="replace")[:200].decode(errors="ignore")
    data = msgspec.json.encode(msgspec.structs.replace(holder, command=command.replace("\0", "")))
    if len(data) >= SECTOR_BYTES:
        data = msgspec.json.encode(Holder(holder.epoch, holder.pid))
    return data.ljust(SECTOR_BYTES - 1) + b"\n"


def read_holder(data: bytes) -> Holder:
    """The lock file's content; an empty or foreign one tells nothing."""
    try:
        return msgspec.json.decode(data, type=Holder)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Holder()
