"""The error tree: whose fault it was, what to do next, and the exit code the command ends with.

Knows nothing of files or state. Three families: the caller's (a refused event, a bad argument), the environment's
(a full disk, a second writer), the data's (damage, divergence, a newer version). An error is one line: what, where,
and a hint that says what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class JournalError(Exception):
    """Root of every error that this project declares.

    ``code`` is stable and for machines, ``exit_code`` is the command's; ``path``, ``offset`` (bytes) and ``seq`` say
    where, ``hint`` says what to do next. Each may be None.
    """

    exit_code = 1
    code = "failed"

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        offset: int | None = None,
        seq: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.offset = offset
        self.seq = seq
        self.hint = hint

    @property
    def what(self) -> str:
        """The message, and where: without the hint, since the error that this one is the reason of has its own."""
        where = ""
        if self.path is not None:
            where = f" [{self.path}" + (f" @ {self.offset}" if self.offset is not None else "") + "]"
        return self.message + where

    def __str__(self) -> str:
        return self.what + (f" - {self.hint}" if self.hint else "")

    def to_json(self) -> dict[str, object]:
        """The error as the value of ``"error"`` in JSON output; absent facts are left out."""
        facts = {"code": self.code, "message": self.message, "path": self.path, "offset": self.offset}
        facts |= {"seq": self.seq, "hint": self.hint}
        return {key: value for key, value in facts.items() if value is not None}


def reason_of(error: BaseException) -> str:
    """An error as the reason in another one's message."""
    return error.what if isinstance(error, JournalError) else str(error) or type(error).__name__


# -- the caller's -----------------------------------------------------------------------------------------------------


class CallerError(JournalError):
    """The call was wrong; nothing was written."""


class UsageError(CallerError):
    """A bad argument: an unknown tag, a naive time, a seq beyond the end."""

    exit_code = 2
    code = "usage"


REFUSALS = frozenset(
    {
        "invalid", "unknown_type", "reserved_type", "too_large", "unsafe_name", "already_exists", "not_found",
        "op_id_reused", "moved_on",
    }
)  # fmt: skip


class Refused(CallerError):
    """An event that was not accepted: nothing was written and it took no seq.

    ``code`` is one of `REFUSALS`.
    """

    exit_code = 3

    def __init__(self, code: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


# -- the environment's ------------------------------------------------------------------------------------------------


class EnvironmentFault(JournalError):
    """The machine could not do it; the data is as it was."""


class NotAJournal(EnvironmentFault):
    exit_code = 10
    code = "not_a_journal"


class Locked(EnvironmentFault):
    """Another process writes this journal; the message names it."""

    exit_code = 11
    code = "locked"


class NoSpace(EnvironmentFault):
    """The disk is full. Refused before a byte was written: no event took a seq, writing resumes when there is room."""

    code = "no_space"


class ReadOnly(EnvironmentFault):
    code = "read_only"


class IOFault(EnvironmentFault):
    """A read or write failed at the operating system."""

    code = "io_error"


class OutcomeUnknown(EnvironmentFault):
    """A write or sync failed after the batch was handed to the disk: the event may or may not survive.

    The log is poisoned and acknowledges nothing more. ``op_id`` is the key to ask with at the next open.
    """

    code = "outcome_unknown"

    def __init__(self, message: str, *, op_id: str | None = None, seq: int | None = None, hint: str | None = None):
        super().__init__(message, seq=seq, hint=hint)
        self.op_id = op_id

    def to_json(self) -> dict[str, object]:
        return super().to_json() | ({"op_id": self.op_id} if self.op_id is not None else {})


class Poisoned(EnvironmentFault):
    """The log failed earlier (or was forked, or lost its lock) and takes nothing more; open it again."""

    code = "poisoned"


class NotApplied(EnvironmentFault):
    """Journaled and durable at ``seq``, but not yet in memory.db; it is applied by the next catch-up."""

    code = "journaled_not_applied"


# -- the data's -------------------------------------------------------------------------------------------------------


class DataError(JournalError):
    """What is on disk is not what was written."""


class Corrupt(DataError):
    exit_code = 12
    code = "corrupt"


class Unreadable(Corrupt):
    """The disk or the file system refuses to give bytes out that it holds: how a sector that rotted mostly shows."""


class AmbiguousTail(DataError):
    """The last batch is complete but wrong: bit rot of an acknowledged event, or a write that never finished."""

    exit_code = 13
    code = "ambiguous_tail"


class Diverged(DataError):
    """Two different histories meet: of memory.db and the journal, of two copies, of a head and what is here."""

    exit_code = 14
    code = "diverged"


class Unsupported(DataError):
    """Written by a newer version, or with a feature this version does not have. Never called corrupt."""

    exit_code = 15
    code = "unsupported"


# -- across processes -------------------------------------------------------------------------------------------------


def from_json(given: Mapping[str, Any]) -> JournalError:
    """The error that `JournalError.to_json` told, as its own class: another process raised it, this one raises it on.

    A code that no class owns is an EnvironmentFault with that code; the code of a refusal stays a refusal's.
    """
    code = str(given.get("code", ""))
    message, hint = str(given.get("message", "it does not say why")), given.get("hint")
    seq, offset = given.get("seq"), given.get("offset")
    if code in REFUSALS:
        return Refused(code, message, hint=hint)
    if code == OutcomeUnknown.code:
        return OutcomeUnknown(message, op_id=given.get("op_id"), seq=seq, hint=hint)
    kinds: list[type[JournalError]] = [JournalError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    plain = (kind for kind in kinds if not issubclass(kind, Refused | OutcomeUnknown) and "code" in vars(kind))
    kind = next((kind for kind in plain if kind.code == code), EnvironmentFault)
    error = kind.__new__(kind)  # some say by themselves what happened: their own words are what was told
    JournalError.__init__(error, message, path=given.get("path"), offset=offset, seq=seq, hint=hint)
    if kind.code != code and code:
        error.code = code
    return error
