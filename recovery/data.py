"""One server's data directory as the surfaces see it: storage, layout and configuration together.

Knows where things are and what the user configured; must not know what is wrong with them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from journal.checkpoint import CheckpointStore
from journal.errors import DataError, JournalError, UsageError
from journal.files import read_bounded
from journal.format import HEADER_BYTES_MAX, KIND_PLAN, decode_file
from journal.reader import LogReader, list_segments
from journal.storage import RealStorage, Storage
from journal.stored import read_segment_header
from recovery.config.file import load
from recovery.config.table import Config
from recovery.redact import Redactor
from replay.generations import Generations
from replay.layout import Layout

if TYPE_CHECKING:
    from journal.parity_store import ParityStore
    from replay.encoder import Model


@dataclass
class Data:
    """A data directory. Opening one reads no state; `reader` raises NotAJournal where there is none."""

    root: str
    config: Config = field(default_factory=Config)
    storage: Storage = field(default_factory=RealStorage)

    @classmethod
    def at(cls, path: str | os.PathLike[str], config_path: str | os.PathLike[str] | None = None) -> Data:
        """The directory at `path`, made absolute, under its journal.yaml or the one at `config_path`."""
        root = os.path.abspath(path)
        return cls(root, load(root, config_path if config_path is None else os.fspath(config_path)))

    @cached_property
    def layout(self) -> Layout:
        return self.config.layout(self.root)

    @cached_property
    def redactor(self) -> Redactor:
        """What errors, logs and reports must not show."""
        return Redactor(self.config.redact.patterns, self.config.redact.fields)

    @cached_property
    def generations(self) -> Generations:
        return Generations(self.storage, self.layout.memory_db, self.quarantine)

    @cached_property
    def checkpoints(self) -> CheckpointStore:
        return CheckpointStore(self.storage, f"{self.layout.journal}/checkpoints")

    @property
    def parity(self) -> ParityStore:
        """Where the parity of this journal's files lies, as configured."""
        from journal.parity_store import ParityStore  # most verbs have no use for it

        share, directory = self.config.parity.share, self.config.parity.directory
        journal_id = self.journal_id() if directory else None
        if journal_id is None:
            return ParityStore(self.storage, self.layout.journal, share=share)
        place = os.path.join(self.root, directory, journal_id)
        return ParityStore(self.storage, self.layout.journal, place, share)

    def journal_id(self) -> str | None:
        """As the first segment says that can tell; None where none can."""
        return next(journal_ids(self.storage, self.layout.journal), None)

    @property
    def quarantine(self) -> str:
        return f"{self.layout.journal}/quarantine"

    @property
    def agents_backup(self) -> str | None:
        """The directory that agents.backup names, absolute."""
        named = self.config.agents.backup
        return os.path.join(self.root, named) if named else None

    @property
    def reload_log(self) -> str | None:
        """The server's log that reload.log names, absolute."""
        named = self.config.reload.log
        return os.path.join(self.root, named) if named else None

    @property
    def crash_log(self) -> str | None:
        """The server's log that crash.log names, absolute; else that of reload.log."""
        named = self.config.crash.log
        return os.path.join(self.root, named) if named else self.reload_log

    def server_token(self) -> str:
        """What server.token_file holds, "" where it names none. Raises UsageError where it cannot be read."""
        named = self.config.server.token_file
        if not named:
            return ""
        path = os.path.join(self.root, named)
        try:
            return self.storage.read(path).decode("ascii", errors="replace").strip()
        except (OSError, JournalError):
            raise UsageError("there is no token file", path=path, hint="see server.token_file") from None

    def model(self) -> Model:
        """The configured sentence model, for the configured backend. Raises NoModel."""
        from replay.encoder import Model  # most verbs have no use for it

        return Model(self.config.model_path(self.root), backend=self.config.embeddings.backend)

    @property
    def plan_path(self) -> str:
        return f"{self.layout.journal}/recovery.json"

    @property
    def is_ours(self) -> bool:
        """Whether what this process made in the journal's directory would be its owner's."""
        try:
            return os.stat(self.layout.journal).st_uid == os.geteuid()
        except OSError:
            return False

    def reader(self, evidence_seq: int = 0) -> LogReader:
        return LogReader(self.storage, self.layout.journal, evidence_seq=evidence_seq)

    @property
    def import_path(self) -> str:
        return f"{self.layout.journal}/import.json"

    @property
    def is_importing(self) -> bool:
        """True while an import runs, and after one was cut."""
        return self.storage.kind(self.import_path) != "missing"

    def interrupted_plan(self) -> bytes | None:
        """The plan of a recovery that was cut, as JSON; empty where it is there and cannot be read."""
        try:
            return self._read_plan(self.plan_path)
        except JournalError:
            return b""

    def pending_import(self) -> bytes | None:
        """What an import that did not end reads from, as JSON. Raises Corrupt where it is there and cannot be read."""
        return self._read_plan(self.import_path)

    def _read_plan(self, path: str) -> bytes | None:
        try:
            return decode_file(read_bounded(self.storage, path, HEADER_BYTES_MAX), KIND_PLAN, path)
        except FileNotFoundError:
            return None


def journal_ids(storage: Storage, directory: str) -> Iterator[str]:
    """The id that each segment under `directory` (a journal's) names, as far as its header can be read."""
    for segment in list_segments(storage, directory):
        try:
            yield read_segment_header(storage, segment.path)[0].journal_id.hex()
        except (DataError, FileNotFoundError):
            continue
