"""Edits that people make to agents/ by hand, journaled while they happen; and writes to memory.db past the hook, found.

Knows the live state of one open core. What a difference means is the table's (`recovery.tables.watch`). Everything is
asked of the bytes, under the writer's lock: a notice from the operating system only says where to look, so that a lost
or doubled one changes nothing, and the hook's own writes, which lie there as journaled, are not echoed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import time_ns
from types import ModuleType
from typing import TYPE_CHECKING

import msgspec

from journal.commit import draft, ticket
from journal.errors import JournalError, Poisoned, Refused, UsageError
from journal.events import ConfigRejected, ConfigRemoved, ConfigWritten, Event
from journal.limits import CONFIG_BYTES_MAX, check_agent_name
from recovery.agents.measure import Measure
from recovery.data import Data
from recovery.tables.watch import Lies, WatchFact, watch_row
from replay.agent_quarantine import printable
from replay.agents import SUFFIX, Seen, bring_current, damage_in, inspect, look
from replay.core import Core
from replay.holders import holders

if TYPE_CHECKING:
    from recovery.live_drift import MemoryDrift

DEBOUNCE_MS = 200  # notices that come this close together are looked at once; the last one is always looked at
TICK_MS = 250  # how often it is asked whether to stop, and whether memory.db was written by another program
RESCAN_TICKS = 120  # ticks after which every file is looked at, whatever was noticed


class Noticed(msgspec.Struct, frozen=True):
    """One thing that the watch did or reports. ``what`` is the table's case, or memory_drift; ``seq`` is that of the
    event."""

    what: str
    name: str
    action: str
    seq: int | None = None
    detail: str = ""
    kept: str = ""  # where in quarantine the bytes lie that were replaced


class Watch:
    """Watches the agents directory and memory.db of one open core. `told` is called with each thing noticed, from the
    thread that watches."""

    def __init__(self, data: Data, core: Core, told: Callable[[Noticed], object] = lambda noticed: None) -> None:
        self.data = data
        self.core = core
        self.told = told
        self.error: str | None = None
        self._measure = Measure.of(data.config.agents)
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._reported: dict[str, tuple[str, str]] = {}  # name → case and bytes that were told already
        self._waiting: set[str] = set()
        self._foreign_writes = core.state.foreign_writes

    # -- running ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Watches in a thread of its own, from here on. Raises UsageError without the extra `watch`."""
        _watchfiles()
        self._thread = threading.Thread(target=self._run_quietly, name="journal-watch", daemon=True)
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Lets `run` end, after a last look."""
        self._stop.set()

    def close(self) -> None:
        """Looks once more, so that the last edit is not lost, and ends."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run_quietly(self) -> None:
        try:
            self.run()
        except Exception as error:  # the hook goes on; whoever asks for it is told
            self.error = str(error)
        finally:
            self._ready.set()

    def run(self) -> None:
        """Watches in this thread until `close` is called elsewhere, or Ctrl-C."""
        watchfiles = _watchfiles()
        self.data.storage.make_directory(self.data.layout.agents)
        while not self._stop.is_set():
            path = os.path.realpath(self.data.layout.agents)
            identity = _identity(path)
            if identity is None:
                self.scan()
                self._ready.set()
                self._stop.wait(TICK_MS / 1000)
                continue
            ticks, is_first = 0, True
            for changes in watchfiles.watch(
                path, watch_filter=None, debounce=DEBOUNCE_MS, step=DEBOUNCE_MS // 4, rust_timeout=TICK_MS,
                yield_on_timeout=True, stop_event=self._stop, recursive=False, raise_interrupt=True,
            ):  # fmt: skip
                if is_first:  # the watch is set before this first look: nothing falls between the two
                    is_first = False
                    self.scan()
                    self._ready.set()
                ticks = 0 if changes else ticks + 1
                self.look(self._waiting | {name for _, changed in changes if (name := _agent_of(changed)) is not None})
                self.look_at_memory()
                if ticks >= RESCAN_TICKS:
                    ticks = 0
                    self.scan()
                if _identity(os.path.realpath(self.data.layout.agents)) != identity:
                    break  # the directory was replaced: the notices are of the old one
        self.scan()

    # -- agents -------------------------------------------------------------------------------------------------------

    def scan(self) -> list[Noticed]:
        """Looks at every agent and every file."""
        with self.core.lock:
            agents = {name for (name,) in self.core.state.connection.execute("SELECT name FROM agents")}
        files = self.data.storage.list(self.data.layout.agents)
        return self.look(agents | {file.removesuffix(SUFFIX) for file in files if file.endswith(SUFFIX)})

    def look(self, names: Iterable[str]) -> list[Noticed]:
        """Compares the files of `names` with the state, and journals what was done to them by hand."""
        noticed = []
        for name in sorted(names):
            try:
                one = self._look_at(name)
            except Poisoned:
                raise
            except JournalError as error:  # a full disk, say: it is looked at again
                self._waiting.add(name)
                one = self._once(name, "error", "", Noticed("error", printable(name), "wait", detail=str(error)))
            if one is not None:
                noticed.append(one)
                self.told(one)
        return noticed

    def _look_at(self, name: str) -> Noticed | None:
        path = f"{self.data.layout.agents}/{name}{SUFFIX}"
        held = holders([path]) != [] if os.path.isfile(path) else False
        with self.core.lock:
            seen = look(self.data.storage, path)
            fact = self._fact(name, seen, held)
            row = watch_row(fact)
            self._waiting.discard(name)
            if row.action == "none":
                self._reported.pop(name, None)
                return None
            detail = fact.complaint or seen.message or (damage_in(seen.content)[1] if seen.content is not None else "")
            made = Noticed(row.case, printable(name), row.action, detail=detail)
            if row.action == "wait":
                self._waiting.add(name)
                return None
            if row.action == "report":
                return self._once(name, row.case, seen.sha256 or "", made)
            content = seen.content or b""
            if row.action == "remove":
                return self._journal(made, name, ConfigRemoved(name, origin="watch"))
            if row.action == "write":
                return self._journal(made, name, ConfigWritten(name, content, origin="watch"))
            rejected = ConfigRejected(name, content, [detail])
            if row.action == "reject":
                once = self._once(name, row.case, seen.sha256 or "", made)
                return self._journal(once, name, rejected) if once is not None else None
            made = self._journal(made, name, rejected)
            return msgspec.structs.replace(made, kept=self._put_back(name))

    def _fact(self, name: str, seen: Seen, held: bool) -> WatchFact:
        state = self.core.state
        row = state.connection.execute("SELECT sha256 FROM agents WHERE name = ?", (name,)).fetchone()
        lies: Lies = "text"
        complaint = ""
        if seen.kind == "missing":
            lies = "missing"
        elif seen.content is None:
            lies = "no_file"
        elif row is not None and seen.sha256 == row[0]:
            lies = "journaled"
        elif damage_in(seen.content)[0]:
            lies = "damage"
        else:
            complaint = self._measure.complaint(name, seen.content)
        return WatchFact(
            name, lies, row is not None, has_directory=os.path.isdir(self.data.layout.agents),
            is_writing=name in state.unwritten, is_held=held, is_safe=_is_safe(name, seen), complaint=complaint,
        )  # fmt: skip

    def _once(self, name: str, case: str, sha256: str, noticed: Noticed) -> Noticed | None:
        """What only can be reported is reported once."""
        if self._reported.get(name) == (case, sha256):
            return None
        self._reported[name] = (case, sha256)
        return noticed

    def _journal(self, made: Noticed, name: str, event: Event) -> Noticed:
        """Appends under the lock that is held. The file is where the event comes from: it is not written again, since
        an editor may have saved once more."""
        request = ticket((draft(event, None, "watch", None),), None)
        state = self.core.state
        state.left_alone = name
        try:
            self.core.committer.commit_now(request)
        finally:
            state.left_alone = None
        return msgspec.structs.replace(made, seq=request.result()[0].seq)

    def _put_back(self, name: str) -> str:
        """Writes the journaled version over a rejected edit, which goes to quarantine: what is written into the file
        that was moved there, by a program that still has it open, is not lost either."""
        state, layout = self.core.state, self.data.layout
        asked = "SELECT sha256, content FROM agents WHERE name = ?"
        row = state.connection.execute(asked, (name,)).fetchone()
        agents = {name: (row[0], row[1])} if row is not None else {}
        facts = inspect(self.data.storage, layout.agents, agents, lambda _: (), (name,))
        outcome = bring_current(
            self.data.storage, layout.agents, facts, agents, drift="set_aside", quarantine=self.data.quarantine,
            time=time_ns(), reason="journal watch: rejected",
        )  # fmt: skip
        return outcome.set_aside.get(name, "")

    # -- memory.db ----------------------------------------------------------------------------------------------------

    def look_at_memory(self) -> MemoryDrift | None:
        """Whether another program wrote memory.db; if so, what differs from the journal, and what is done about it."""
        with self.core.lock:
            writes = self.core.state.notice()
        if writes == self._foreign_writes:
            return None
        self._foreign_writes = writes
        from recovery.live_drift import settle_drift

        drift = settle_drift(self.data, self.core)
        if drift is not None:
            self.told(Noticed("memory_drift", "memory.db", drift.action, detail=drift.words, kept=drift.kept))
        return drift


def _agent_of(path: str) -> str | None:
    """The agent whose file a path is. Editors' temporary files have other endings, or begin with a dot."""
    name = os.path.basename(path)
    return name.removesuffix(SUFFIX) if name.endswith(SUFFIX) else None


def _is_safe(name: str, seen: Seen) -> bool:
    try:
        check_agent_name("agent name", name)
    except Refused:
        return False
    return seen.content is None or len(seen.content) <= CONFIG_BYTES_MAX


def _identity(path: str) -> tuple[int, int] | None:
    with suppress(OSError):
        status = os.stat(path)
        if os.path.isdir(path):
            return status.st_dev, status.st_ino
    return None


def _watchfiles() -> ModuleType:
    """The library behind the extra `watch`."""
    try:
        import watchfiles
    except ImportError as error:
        raise UsageError("watching needs the extra `watch`", hint="pip install 'agent-journal[watch]'") from error
    return watchfiles
