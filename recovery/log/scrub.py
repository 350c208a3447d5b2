"""Reading all of a journal at a bounded rate, beside whoever writes it: what rotted is found while parity can help.

Goes from file to file and keeps where it stands in `journal/scrub.json`, so that one that was interrupted goes on.
It takes no lock to read; at the end it makes the parity that is missing, and journals `scrub.completed` if it can.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import msgspec

from journal.errors import DataError, JournalError, Locked
from journal.events import ScrubCompleted
from journal.files import write_file
from journal.format import KIND_PLAN, decode_file, encode_header
from journal.parity import shape_for
from journal.parity_store import Filled, ParityStore
from journal.reader import list_segments
from journal.scrub import Unit, units
from recovery.control.writer import journal_beside
from recovery.data import Data
from recovery.evidence import evidence_seq
from recovery.log.pacing import Pace, PacedStorage

Progress = Callable[[int, int], None]

_SAVE_BYTES = 64 << 20  # how often it is written down how far it came
_FINDINGS_MAX = 1000  # of what is journaled


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: what, where, and what to do next."""

    code: str
    message: str
    path: str | None = None
    offset: int | None = None
    seq: int | None = None
    hint: str | None = None
    exit_code: int = 12


class Standing(msgspec.Struct):
    """How far a scrub came: the key of the last file that it finished, and what it found until then."""

    key: str = ""
    files: int = 0
    bytes: int = 0
    findings: list[Finding] = []


class Scrubbed(msgspec.Struct):
    """What one scrub read and found, its interrupted beginnings included.

    ``problem`` says why `scrub.completed` was not journaled, ``parity_problem`` why parity could not be made.
    """

    files: int = 0
    bytes: int = 0
    findings: list[Finding] = []
    resumed: bool = False
    parity_files: int = 0
    parity_bytes: int = 0
    parity_removed: int = 0
    parity_problem: str | None = None
    journaled: bool = False
    problem: str | None = None
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        return self.findings[0].exit_code if self.findings else 0


def scrub(data: Data, bytes_per_second: float, *, anew: bool = False, progress: Progress | None = None) -> Scrubbed:
    """Reads everything, makes parity, journals. Interrupted, it writes down where it stands, and the next one goes on.

    Raises NotAJournal where there is none. Damage is in the result, never raised.
    """
    started = perf_counter()
    if not list_segments(data.storage, data.layout.journal):
        data.reader()  # says whether the log is lost or was never there
    storage = PacedStorage(Pace(bytes_per_second))
    parity = ParityStore(storage, data.layout.journal, data.parity.directory, data.parity.share)
    todo = units(storage, data.layout.journal, parity, evidence_seq(data))
    standing = Standing() if anew else _read_standing(data)
    result = Scrubbed(resumed=bool(standing.key))
    _read(data, todo, standing, progress)
    result.files, result.bytes, result.findings = standing.files, standing.bytes, standing.findings
    if data.config.parity.share:
        _make_parity(parity, result)
    result.problem = _journal(data, result)
    result.journaled = result.problem is None
    _forget(data)
    result.seconds = perf_counter() - started
    return result


def _read(data: Data, todo: list[Unit], standing: Standing, progress: Progress | None) -> None:
    """Checks what lies behind `standing`, and moves it along."""
    total, done, saved = sum(unit.bytes for unit in todo), 0, standing.bytes
    try:
        for unit in todo:
            if unit.key > standing.key:
                known = {each.path for each in standing.findings}  # a segment may be named by its parity as well
                standing.findings += [_finding(error) for error in unit.check() if error.path not in known]
                standing.key, standing.files = unit.key, standing.files + 1
                standing.bytes += unit.bytes
            done += unit.bytes
            if progress is not None:
                progress(done, total)
            if standing.bytes - saved >= _SAVE_BYTES:
                _save(data, standing)
                saved = standing.bytes
    except KeyboardInterrupt:
        _save(data, standing)
        raise


def _finding(error: JournalError) -> Finding:
    return Finding(error.code, error.message, error.path, error.offset, error.seq, error.hint, error.exit_code)


def _make_parity(parity: ParityStore, result: Scrubbed) -> None:
    """What is missing, damaged, or of another share than configured. Parity of a damaged file stays as it is."""
    damaged = {each.path for each in result.findings}
    anew = {name for name in parity.names() if parity.path_of(name) in damaged or _has_another_share(parity, name)}
    try:
        filled: Filled = parity.fill(anew=anew)
    except JournalError as error:
        result.parity_problem = str(error)
        return
    result.parity_files, result.parity_bytes, result.parity_removed = filled.files, filled.bytes, filled.removed


def _has_another_share(parity: ParityStore, name: str) -> bool:
    found = parity.read(name)
    return found is not None and found.header.shape != shape_for(found.header.shape.length, parity.share)


def _journal(data: Data, result: Scrubbed) -> str | None:
    """Why it is not journaled; None where it is. A journal without a memory.db is a backup, which takes no events."""
    if data.storage.kind(data.layout.memory_db) == "missing":
        return "there is no memory.db here: a copy of a journal takes no events"
    told = [f"{each.code}: {each.message} [{each.path}]"[:2000] for each in result.findings[:_FINDINGS_MAX]]
    try:
        journal_beside(data, ScrubCompleted(result.bytes, told))
    except Locked:
        return "a writer is at work, and does not listen"
    except JournalError as error:
        return str(error)
    return None


# -- where it stands --------------------------------------------------------------------------------------------------


def _path(data: Data) -> str:
    return f"{data.layout.journal}/scrub.json"


def _read_standing(data: Data) -> Standing:
    """One that cannot be read tells nothing: the scrub begins anew."""
    path = _path(data)
    try:
        return msgspec.json.decode(decode_file(data.storage.read(path), KIND_PLAN, path), type=Standing)
    except (FileNotFoundError, DataError, msgspec.MsgspecError):
        return Standing()


def _save(data: Data, standing: Standing) -> None:
    write_file(data.storage, _path(data), encode_header(KIND_PLAN, msgspec.json.encode(standing)))


def _forget(data: Data) -> None:
    if data.storage.kind(_path(data)) != "missing":
        data.storage.remove(_path(data))
        data.storage.sync_dir(data.layout.journal)
