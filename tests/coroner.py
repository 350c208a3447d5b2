"""Says what became of a damaged journal, by the whole way through the product, and refuses every wrong answer.

Ways: reading, verifying, opening for writing, building the state over the ladder of checkpoints. Each ends in the truth
or in a declared error that names the place. Anything else is a `WrongAnswer`: another state, a bridge over a gap, an
event less without a word, an error that nobody declared.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from journal.checkpoint import CheckpointStore
from journal.errors import AmbiguousTail, Corrupt, DataError, Diverged, JournalError, NotAJournal, Unsupported
from journal.log import Log
from journal.reader import LogReader
from journal.segment import is_packed
from journal.unpack import unpack, unpack_what_is_whole
from journal.verified import Verified
from journal.verify import verify
from replay.engine import Built, build_state
from replay.vouching import UNVOUCHED
from tests.overlay import Reads, View, is_read
from tests.ruin import PLANTED, Damage
from tests.specimen import Specimen, kind_of

DECLARED = (Corrupt, AmbiguousTail, Diverged, Unsupported, NotAJournal)
ENTROPY = bytes(range(64))


class WrongAnswer(AssertionError):
    """The product is wrong, or the rig is; the message says which damage."""


@dataclass
class Coroner:
    """Judges damages of one specimen. ``counts`` says how often each outcome was seen, by kind of file."""

    specimen: Specimen
    counts: Counter[str] = field(default_factory=Counter)

    def judge(self, damage: Damage, *, deep: bool = True) -> str:
        """The outcome: `refused`, `repaired`, `padding`, `passed over` or `ignored by design`. Raises WrongAnswer.

        `deep` builds the state as well.
        """
        try:
            outcome = self._judge(damage, deep)
        except WrongAnswer as error:
            raise WrongAnswer(f"{damage.path.rsplit('/', 1)[1]}, {damage.what}: {error}") from error
        except Exception as error:  # whatever it is: nobody declared it
            where = damage.path.rsplit("/", 1)[1]
            raise WrongAnswer(f"{where}, {damage.what}: {type(error).__name__}: {error}") from error
        self.counts[f"{kind_of(damage.path)}: {outcome}"] += 1
        return outcome

    def _judge(self, damage: Damage, deep: bool) -> str:
        kind = kind_of(damage.path)
        if kind in ("segment", "plan"):
            harmless = kind == "segment" and self._is_padding(damage)
            return self._judge_log(damage, harmless, deep) if kind == "segment" else self._judge_plan(damage)
        if kind == "lock":
            return self._judge_lock(damage)
        return self._judge_planted(damage) if damage.what == PLANTED else self._judge_checkpoint(damage, deep)

    def _is_padding(self, damage: Damage) -> bool:
        return damage.offset is not None and self.specimen.is_padding(damage.path, damage.offset)

    # -- segments -----------------------------------------------------------------------------------------------------

    def _judge_log(self, damage: Damage, padding: bool, deep: bool) -> str:
        error = self._read(damage)
        self._named(damage, error, "reading") if error else None
        if padding and error is not None:
            raise WrongAnswer(f"padding, and yet reading says: {error}")
        report = self._verified(damage)
        found = [finding for finding in report.findings if finding.severity == "damage"]
        if padding and found:
            raise WrongAnswer(f"padding, and yet verify says: {found[0].message}")
        if not padding and not found:
            raise WrongAnswer("verify finds no damage")
        if not padding and not {finding.path for finding in found} & {damage.path, *damage.may_name}:
            raise WrongAnswer(f"verify names {found[0].path}")
        if report.exit_code not in ((0,) if padding else (12, 13, 15)):
            raise WrongAnswer(f"verify ends with {report.exit_code}")
        opened = self._open(damage)
        if error is None and not padding and opened == "open" and not self._has_a_copy(damage):
            raise WrongAnswer("neither reading nor opening refuses it")
        if deep:
            self._build(damage)
        return "padding" if padding else "repaired" if opened == "repaired" else "refused"

    def _has_a_copy(self, damage: Damage) -> bool:
        """True where a pack is damaged at one end only: its header stands at both, so that reading needs no more."""
        changed, whole = damage.changes.get(damage.path), self.specimen.image.get(damage.path)
        if not is_packed(damage.path) or not changed or whole is None:
            return False
        try:
            data, wounds = unpack_what_is_whole(changed, damage.path)
        except DataError:
            return False
        return data == unpack(whole, damage.path) and all(wound.block is None for wound in wounds)

    def _read(self, damage: Damage) -> DataError | NotAJournal | None:
        """What reading all of it ends with; what was read before that must be true."""
        specimen = self.specimen
        view = specimen.view(damage.changes)
        seen = 0
        try:
            reader = LogReader(view, specimen.root, evidence_seq=specimen.last_seq)
            for batch in reader.batches():
                if batch.payload != specimen.payloads[seen]:
                    raise WrongAnswer(f"batch {seen} is read with another content")
                seen += 1
            reader.raise_for_end()
        except DECLARED as error:
            return error
        if seen < len(specimen.payloads):
            raise WrongAnswer(f"{len(specimen.payloads) - seen} batches are gone without a word")
        return None

    def _named(self, damage: Damage, error: JournalError, way: str) -> None:
        if error.path not in (damage.path, *damage.may_name):
            raise WrongAnswer(f"{way} names {error.path}: {error}")
        if error.offset is None and error.seq is None and damage.changes.get(damage.path) is not None:
            raise WrongAnswer(f"{way} names no offset and no event: {error}")

    def _verified(self, damage: Damage) -> Verified:
        try:
            return verify(self.specimen.view(damage.changes), self.specimen.root, evidence_seq=self.specimen.last_seq)
        except (Corrupt, NotAJournal) as error:  # nothing is there to be verified
            report = Verified()
            report.add(error, damage.path)
            return report

    @cached_property
    def _opening_reads(self) -> Reads:
        view = self.specimen.view(note_reads=True)
        self._opened_log(view)
        assert view.reads is not None
        return view.reads

    def _opened_log(self, view: View) -> Log:
        return Log.open(
            view, self.specimen.root, evidence_seq=self.specimen.last_seq, entropy=lambda count: ENTROPY[:count]
        )

    def _open(self, damage: Damage) -> str:
        """Opening for writing: `open`, `refused`, or `repaired` to the very bytes that were there before the damage.

        A flip of what opening never reads cannot matter to it.
        """
        if damage.is_flip and not is_read(self._opening_reads, damage.path, damage.offset or 0):
            return "open"
        view = self.specimen.view(damage.changes)
        try:
            log = self._opened_log(view)
        except DECLARED as error:
            self._named(damage, error, "opening")
            return "refused"
        if log.next_seq != self.specimen.last_seq + 1 or log.opening.torn_bytes:
            raise WrongAnswer(
                f"opening goes on at seq {log.next_seq} after {self.specimen.last_seq}, "
                f"{log.opening.torn_bytes} bytes set aside"
            )
        if not log.opening.repaired:
            return "open"
        path = damage.path
        if view.content(path) != self.specimen.image[path]:
            raise WrongAnswer("repaired to other bytes than there were")
        (kept,) = {each.quarantined for each in log.opening.repaired}
        if kept is None or view.content(kept) != damage.changes[path]:
            raise WrongAnswer("the damaged file is not kept")
        return "repaired"

    # -- the state ----------------------------------------------------------------------------------------------------

    @cached_property
    def _building_reads(self) -> Reads:
        view = self.specimen.view(note_reads=True)
        self._built(view)
        assert view.reads is not None
        return view.reads

    def _build(self, damage: Damage) -> Built | None:
        """The state over the ladder: the right one, or a declared error and no file."""
        if damage.is_flip and not is_read(self._building_reads, damage.path, damage.offset or 0):
            return None
        try:
            built = self._built(self.specimen.view(damage.changes))
        except DECLARED as error:
            self._named(damage, error, "replay")
            return None
        if built.digest != self.specimen.digest:
            raise WrongAnswer(f"another state: digest {built.digest}")
        return built

    def _built(self, view: View) -> Built:
        specimen = self.specimen
        with tempfile.TemporaryDirectory(prefix="journal-coroner-", dir=_memory()) as scratch:
            target = Path(scratch) / "state.db"
            try:
                reader = LogReader(view, specimen.root, evidence_seq=specimen.last_seq)
                reader.raise_for_end()
                return build_state(view, specimen.root, reader, reader.last_seq, str(target))
            except DECLARED:
                if os.path.exists(target):
                    raise WrongAnswer("a refused build leaves a file") from None
                raise

    # -- checkpoints, locks and plans ---------------------------------------------------------------------------------

    def _judge_checkpoint(self, damage: Damage, deep: bool) -> str:
        """A rung less, and named; everything else as it was."""
        specimen = self.specimen
        store = CheckpointStore(specimen.view(damage.changes), f"{specimen.root}/checkpoints")
        manifests, damaged = store.scan()
        paths = {error.path for manifest in manifests for error in store.check(manifest)}
        paths |= {each.path for each in damaged}
        gone = damage.changes[damage.path] is None and damage.path.endswith(".manifest")
        if paths != (set() if gone else {damage.path}):
            raise WrongAnswer(f"the ladder's damage is said to be {sorted(paths)}")
        report = self._verified(damage)
        found = {finding.path for finding in report.findings if finding.severity == "damage"}
        if found != (set() if gone else {damage.path}):
            raise WrongAnswer(f"verify names {sorted(found)}")
        if deep:
            built = self._build(damage)
            intact = is_read(self._building_reads, damage.path, damage.offset or 0)
            if built is None and intact:
                raise WrongAnswer("a damaged checkpoint stops the replay")
            if built is not None and not gone and damage.path in self._building_reads:
                told = [*(each.reason for each in built.passed_over), *built.parts_lost]
                if not any(damage.path in reason for reason in told):
                    raise WrongAnswer(f"the replay does not say what it passed over: {told}")
        return "passed over"

    def _judge_planted(self, damage: Damage) -> str:
        """Nothing is wrong with it but that the journal knows nothing of it: no rung, and said so."""
        built = self._build(damage)
        if built is None:
            raise WrongAnswer("a planted checkpoint stops the replay")
        reasons = [each.reason for each in built.passed_over]
        newest = damage.path.endswith(f"{self.specimen.manifests[0].seq:016d}.manifest")
        if reasons != ([UNVOUCHED] if newest else []):
            raise WrongAnswer(f"the replay says of what it passed over: {reasons}")
        return "passed over"

    def _judge_lock(self, damage: Damage) -> str:
        """Ignored by design: what it says costs an epoch at most, and never an event."""
        if self._open(damage) != "open":
            raise WrongAnswer("a damaged lock file stops the opening")
        return "ignored by design"

    def _judge_plan(self, damage: Damage) -> str:
        """A plan that is damaged is named by verify, and reading goes on."""
        error = self._read(damage)
        if error is not None:
            raise WrongAnswer(f"reading says {error}")
        report = self._verified(damage)
        found = {finding.path for finding in report.findings if finding.severity == "damage"}
        harmless = damage.changes[damage.path] is None or "another journal" in damage.what  # it names no journal
        if found != (set() if harmless else {damage.path}):
            raise WrongAnswer(f"verify names {sorted(found)}")
        return "ignored by design" if harmless else "refused"


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
