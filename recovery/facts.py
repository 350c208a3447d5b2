"""What a diagnosis observed: facts, without judgement. Frozen, and printable as JSON as they are."""

from __future__ import annotations

from typing import Literal

import msgspec

from journal.storage import Kind
from recovery.placing import MemoryKind, PositionIs
from recovery.tables.rto import Estimate
from replay.agents import AgentFact
from replay.deviation import Deviation


class JournalFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The log and its checkpoints. ``error`` is what stops reading it, with its code and exit code."""

    journal_id: str = ""
    last_seq: int = 0
    last_time: int = 0
    segments: int = 0
    clean: bool = True  # the last writer closed
    writer: str = ""  # the process that holds the lock, in words
    torn_bytes: int = 0
    error: str = ""
    error_code: str = ""
    error_hint: str = ""
    repairs: tuple[str, ...] = ()  # of the log's own files, each proven: what can be put right, in words
    exit_code: int = 0
    checkpoints: int = 0
    newest_checkpoint: int = 0
    proven_at: int | None = None  # UTC ns: when a checkpoint last proved restorable
    damaged_checkpoints: tuple[str, ...] = ()
    damaged_watermark: str = ""


class MemoryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """memory.db as it lies there.

    ``readable``: SQLite opens it and its tables are ours. ``ours``: it names this journal. ``position_is`` compares its
    position and chain with the journal's. ``integrity`` is SQLite's own verdict, ``digest`` that of its rows,
    ``expected`` that of the journal at its position; None where it was not computed. ``tables`` counts the rows that
    are not the journal's, where they were compared: only if the file is damaged or the digests differ.
    """

    kind: MemoryKind
    path: str | None = None
    readable: bool = False
    problem: str = ""
    ours: bool = False
    projection_version: int | None = None
    position: int | None = None
    position_is: PositionIs = "unknown"
    lag: int = 0
    integrity: str | None = None
    digest: str | None = None
    expected: str | None = None
    tables: dict[str, Deviation] | None = None
    held_by: tuple[str, ...] = ()


Strategy = Literal["journal", "git", "backup", "repair", "minimal"]
"""Where another version of an agent config is looked for, in this order."""


class Try(msgspec.Struct, frozen=True):
    """One place that was looked into: ``source`` says where, ``problem`` why it was passed over, "" for a good one."""

    strategy: Strategy
    source: str
    problem: str = ""
    sha256: str = ""


class Rescue(msgspec.Struct, frozen=True):
    """What can take the place of a config that is not valid: the places looked into, up to the first good one."""

    name: str
    complaint: str
    tries: tuple[Try, ...] = ()

    @property
    def chosen(self) -> Try | None:
        return next((each for each in self.tries if not each.problem), None)

    @property
    def passed_over(self) -> list[str]:
        """Each strategy that gave nothing, and why, in words."""
        return [f"{each.strategy} ({each.source}): {each.problem}" for each in self.tries if each.problem]


class ScopeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One scope of memory.db against the journal, at memory.db's position.

    ``tables`` counts the rows that are not the journal's; ``digest`` and ``expected`` are of the scope alone. All are
    None where nothing could be compared. ``rest_differs``: some row outside of the scope is not the journal's.
    """

    scope: str
    memory: MemoryFacts
    digest: str | None = None
    expected: str | None = None
    tables: dict[str, Deviation] | None = None
    rest_differs: bool = False
    interrupted: str | None = None


Works = Literal["untested", "yes", "no", "unknown"]


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The embedding model's directory, beside what the journal last said of it.

    ``kind`` is what has its name; a link to a directory counts as one. ``journaled_seq`` is that of the last event
    about it, 0 if there is none; ``missing``, ``altered`` and ``extra`` compare with that event's hashes, which was
    done if ``hashed``. ``fault`` is what configuration and containers tell without hashes. ``works`` is what encoding
    a sentence said (``unknown``: the extra is not installed), ``test`` its reason.
    """

    name: str
    path: str
    kind: Kind = "missing"
    journaled_seq: int = 0
    journaled_source: str = ""
    hashed: bool = False
    missing: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    fault: str = ""
    works: Works = "untested"
    test: str = ""

    @property
    def differs(self) -> bool:
        return bool(self.missing or self.altered or self.extra)


class VectorFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The stored vectors: how many there are, and those that must not be used, counted by reason."""

    stored: int = 0
    bad: int = 0
    reasons: dict[str, int] = {}


class RoomFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the state has room for. Bytes; ``open_files`` is this process's limit, None where there is none."""

    writable: bool = True
    free_bytes: int = 0
    reserve_bytes: int = 0
    rebuild_bytes: int = 0
    open_files: int | None = None
    open_files_needed: int = 0


class LogMatch(msgspec.Struct, frozen=True):
    """A pattern that lines of a log match: how many, and the last of them."""

    pattern: str
    count: int
    last: str


class CrashFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a crash may have left: core files, words in the server's log, a file system in trouble.

    ``errors`` is the kernel's counter of the file system that is mounted at ``mount``; None where it keeps none.
    """

    cores: tuple[str, ...] = ()
    log: str = ""
    matches: tuple[LogMatch, ...] = ()
    mount: str = ""
    mounted_read_only: bool = False
    error_counter: str = ""
    errors: int | None = None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one diagnosis saw.

    ``agents_kind`` is what lies under the name of the agents directory; a link to a directory counts as one.
    ``leftovers`` are paths that a cut, or the end of a reader, left to be tidied. ``interrupted`` is the plan of a
    recovery that was cut, empty where it cannot be read. ``importing``: an import runs, or was cut. ``rescues``: what
    could take the place of agent configs that are not valid. ``model``, ``vectors``, ``room`` and ``crash`` are None
    where they were not looked at.
    """

    journal: JournalFacts
    memory: MemoryFacts
    agents: tuple[AgentFact, ...] = ()
    rescues: tuple[Rescue, ...] = ()
    agents_kind: Kind = "directory"
    leftovers: tuple[str, ...] = ()
    writable: bool = True
    free_bytes: int = 0
    sqlite_version: str = ""
    interrupted: str | None = None
    importing: bool = False
    model: ModelFacts | None = None
    vectors: VectorFacts | None = None
    room: RoomFacts | None = None
    crash: CrashFacts | None = None
    recovery: Estimate | None = None
