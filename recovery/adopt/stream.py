"""An existing data directory as a stream of events, for `journal init --adopt`.

Knows what a memory.db and an agents directory become, and says exactly what does not; must not know how events are
appended. The source is only read. The stream is the same each time: its op_ids come from the source's bytes and the
row, so an import that was cut can be taken up after the last op_id that was journaled.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType

from journal.errors import Refused, UsageError
from journal.events import ConfigWritten, Event, StatusChanged
from journal.limits import admit
from journal.storage import Storage
from recovery.adopt.opening import open_best
from recovery.adopt.rows import Adopted, LeftOut, Report, RowReader
from recovery.adopt.source import TABLES, ForeignDatabase, Row
from replay.agent_quarantine import printable
from replay.agents import SUFFIX, look
from replay.scratch import scratch_directory

__all__ = ["Adopted", "Adoption", "LeftOut", "Report"]

_DERIVED = {
    "embeddings": "derived from the texts: computed again when the model is there",
    "journal_position": "the position in a journal that this is not",
}
_AGENT_COLUMNS = {"id", "name", "content", "sha256", "status", "reason"}


class Adoption:
    """One import: open it, append its events, read its `report`, close it.

    `fingerprint` is a SHA-256 of everything that the source holds. `found` counts its rows and files.
    """

    def __init__(
        self, storage: Storage, *, memory_db: str | None, agents: str | None, backup: str | None = None
    ) -> None:
        """Opens the source; both parts are optional. A damaged memory.db is salvaged, and `backup` taken where no row
        of it can be read; `attempts` says what was tried. Raises Unsupported for a memory.db of another schema.
        """
        self._storage = storage
        self._directory = agents
        self._files = storage.list(agents) if agents is not None else []  # sorted
        there = memory_db if memory_db is not None and storage.kind(memory_db) != "missing" else None
        with ExitStack() as opening:
            scratch = opening.enter_context(scratch_directory("adopt"))
            self._memory, self.attempts, self._lost = open_best(there, backup, scratch)
            if self._memory is not None:
                opening.callback(self._memory.close)
            self.report = Report()
            self._skipped: Counter[str] = Counter()  # columns of the agents table without a place
            self.schema = self._memory.schema if self._memory is not None else None
            self.found = self._count()
            self.fingerprint = self._fingerprint()
            self._opened = opening.pop_all()

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Adoption:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def events(self, after: str | None = None) -> Iterator[Adopted]:
        """Every event, agents first, each after what it refers to; with `after`, those behind that op_id.

        The report is made anew as it goes, and is whole at the end: it covers what `after` skips, too.
        """
        self.report.counts.clear()
        self.report.left_out.clear()
        waiting = after is not None
        for adopted in self._all():
            if not waiting:
                yield adopted
            elif adopted.op_id == after:
                waiting = False
        if waiting:
            raise UsageError(
                f"no event of this source has the op_id {after!r}",
                hint="the source has changed since the import began: bring it back as it was",
            )

    def _all(self) -> Iterator[Adopted]:
        prefix = f"adopt-{self.fingerprint[:16]}"
        yield from self._read_agents(prefix)
        if self._memory is not None:
            for what, reason in self._lost:
                self._leave_out(what, reason)
            yield from RowReader(self._memory, prefix, self.report).events()
            self._report_tables(self._memory)

    # -- the source as a whole ----------------------------------------------------------------------------------------

    def _count(self) -> dict[str, int]:
        memory = self._memory
        counts = {table: memory.count(table) or 0 for table in memory.columns if table in TABLES} if memory else {}
        return counts | {"agent_files": sum(name.endswith(SUFFIX) for name in self._files)}

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        if self._memory is not None:
            digest.update(self._memory.fingerprint().encode())
        for name in self._files:
            seen = look(self._storage, f"{self._directory}/{name}")
            digest.update(f"\n{printable(name)}\0{seen.kind}\0{seen.sha256}".encode())
        return digest.hexdigest()

    def _report_tables(self, memory: ForeignDatabase) -> None:
        for table in memory.columns:
            if table in TABLES:
                continue
            count = memory.count(table)
            if count == 0:
                continue
            rows = "rows that cannot be counted" if count is None else f"{count} rows"
            reason = _DERIVED.get(table, "no event has a place for this table")
            self._leave_out(f"table {table}, {rows}", reason, missing=table not in _DERIVED)

    # -- agents -------------------------------------------------------------------------------------------------------

    def _read_agents(self, prefix: str) -> Iterator[Adopted]:
        """The version in the agents table first, the file's on top of it where it differs: both stay in history."""
        files = {name.removesuffix(SUFFIX) for name in self._files if name.endswith(SUFFIX)}
        self._skipped.clear()
        if self._memory is not None and self._memory.has("agents"):
            for number, row in enumerate(self._memory.rows("agents", "name"), 1):
                yield from self._read_agent_row(f"{prefix}-agents-{number}", row, row["name"] in files)
                files.discard(row["name"])
        for column, count in sorted(self._skipped.items()):
            self._leave_out(f"agents.{column}", f"{count} values; a config has no place for it", missing=False)
        for number, name in enumerate(sorted(files), 1):
            taken = self._read_agent_file(f"{prefix}-files-{number}", name, None)
            if taken is not None:
                yield taken
        for name in self._files:
            if not name.endswith(SUFFIX):
                self._leave_out(f"agents/{name}", f"no agent file: its name does not end in {SUFFIX}", missing=False)

    def _read_agent_row(self, op_id: str, row: Row, has_file: bool) -> Iterator[Adopted]:
        name, content = row["name"], row["content"]
        what = f"agents row {name!r}"
        content = content.encode(errors="surrogateescape") if isinstance(content, str) else content
        version = self._take(op_id, "agents", what, ConfigWritten(name, content, origin="import"))
        if version is not None:
            yield version
            recorded = row.get("sha256")
            if isinstance(recorded, str) and recorded.lower() != hashlib.sha256(content).hexdigest():
                self._leave_out(
                    f"{what}, sha256", "is not that of its content; the content was taken as it is", missing=False
                )
        file = self._read_agent_file(f"{op_id}-file", name, content if version else None) if has_file else None
        if file is not None:
            yield file
        if version is None and file is None:
            return
        status, reason = row.get("status") or "active", row.get("reason") or ""
        if (status, reason) != ("active", ""):
            change = self._take(f"{op_id}-status", "statuses", f"{what}, status", StatusChanged(name, status, reason))
            if change is not None:
                yield change
        self._skipped.update(column for column in row.keys() - _AGENT_COLUMNS if row[column] is not None)

    def _read_agent_file(self, op_id: str, name: str, version: bytes | None) -> Adopted | None:
        """The file's bytes, unless they are those of `version`, or damage where `version` is sound."""
        what = f"agents/{name}{SUFFIX}"
        seen = look(self._storage, f"{self._directory}/{name}{SUFFIX}")
        if seen.content is None:
            self._leave_out(what, seen.message or "is gone")
        elif version is not None and seen.content != version and (not seen.content or b"\x00" in seen.content):
            self._leave_out(
                what, "is empty or holds NUL bytes: the version of the agents table was taken", missing=False
            )
        elif seen.content != version:
            return self._take(op_id, "agents", what, ConfigWritten(name, seen.content, origin="import"))
        return None

    def _take(self, op_id: str, kind: str, what: str, event: Event) -> Adopted | None:
        try:
            admitted, _ = admit(event)
        except Refused as error:
            self._leave_out(what, error.message)
            return None
        self.report.counts[kind] = self.report.counts.get(kind, 0) + 1
        return Adopted(op_id, admitted)

    def _leave_out(self, what: str, reason: str, *, missing: bool = True) -> None:
        self.report.left_out.append(LeftOut(printable(what), printable(reason), missing))
