"""What a server on the simulated disk promised so far, and whether a disk after a cut keeps all of it.

The reference is the plain-dict projection: every event that was ever sent, in its order, whether acknowledged or not.
A journal after a cut is a prefix of that order, so the state that belongs to it is known by its last seq.
"""

from __future__ import annotations

from hashlib import sha256

from journal.checkpoint import Manifest
from journal.commit import Receipt
from journal.events import Event
from journal.reader import LogReader, list_segments
from journal.verified import Verified
from journal.verify import verify
from journal.witness import prove
from replay.model import Model, State
from tests.crash_server import BACKUP, LAYOUT, Server
from tests.simdisk import SimDisk


class Reference:
    """The events that were sent and the state after each, by the plain-dict projection."""

    def __init__(self) -> None:
        self.model = Model()
        self.sent: list[tuple[int, str | None, Event]] = []
        self.states: list[State] = [State()]
        self.groups: dict[int, int] = {}  # first seq of a group → its last
        self._digests: dict[int, str] = {}

    def send(self, time: int, agent: str | None, event: Event) -> int:
        """The next event, before it is journaled; returns its seq."""
        seq = len(self.sent) + 1
        self.model.apply(seq, time, agent, event)
        self.sent.append((time, agent, event))
        self.states.append(self.model.state.copy())
        return seq

    def digest(self, seq: int) -> str:
        found = self._digests.get(seq)
        if found is None:
            found = self._digests[seq] = self.states[seq].digest()
        return found

    def branch(self, last_seq: int) -> Reference:
        """Another history from `last_seq` on."""
        other = Reference()
        for time, agent, event in self.sent[:last_seq]:
            other.send(time, agent, event)
        other.groups = {first: last for first, last in self.groups.items() if last <= last_seq}
        return other


class Promises:
    """What was promised: receipts, what an open found, checkpoints, a backup, quarantine; and the epochs in use."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.batches: dict[str, tuple[int, int, int]] = {}  # chain → first seq, last seq, epoch, of acknowledged ones
        self.last: Receipt | None = None
        self.reaches = 0
        self.epoch = 0
        self.checkpoints: dict[int, Manifest] = {}
        self.backup_seq = 0
        self.quarantined: dict[str, bytes] = {}
        self._known: set[str] = set()  # chains whose records were compared with what was sent
        self._verified: dict[tuple[str, int], Verified] = {}  # what `verify` says of equal trees

    def branch(self, last_seq: int | None = None) -> Promises:
        """The same promises, to which one recovery adds its own."""
        other = Promises(self.reference if last_seq is None else self.reference.branch(last_seq))
        other.batches, other.checkpoints = dict(self.batches), dict(self.checkpoints)
        other.quarantined, other._known = dict(self.quarantined), set(self._known)
        other._verified = self._verified
        other.last, other.reaches, other.epoch, other.backup_seq = self.last, self.reaches, self.epoch, self.backup_seq
        return other

    def acknowledged(self, receipts: list[Receipt]) -> None:
        """The receipts of one flush: consecutive seqs."""
        for receipt in receipts:
            first, last, _ = self.batches.get(receipt.chain, (receipt.seq, receipt.seq, 0))
            self.batches[receipt.chain] = (min(first, receipt.seq), max(last, receipt.seq), receipt.epoch)
            self.last = receipt
            self.reaches = max(self.reaches, receipt.seq)

    def opened(self, server: Server) -> None:
        """An open returned: what it found is there to stay, and its epoch is taken."""
        log = server.core.log
        self.epoch = log.epoch
        self.reaches = max(self.reaches, log.next_seq - 1)
        if log.opening.quarantined:
            self.quarantined[log.opening.quarantined] = server.disk.read(log.opening.quarantined)

    # -- on a disk after a cut, opened --------------------------------------------------------------------------------

    def hold(self, server: Server) -> None:
        """Asserts every promise on the disk of a server that has just opened."""
        disk = server.disk
        seq = self.holds_but_for_files(server)
        report = self._verify(disk, LAYOUT.journal)
        assert report.exit_code == 0, report.findings
        self._checkpoints(server, seq)
        for path, data in self.quarantined.items():
            assert disk.read(path) == data, f"quarantine lost {path}"
        if list_segments(disk, f"{BACKUP}/journal"):
            report = self._verify(disk, f"{BACKUP}/journal")
            assert report.exit_code == 0, report.findings
            assert report.last_seq >= self.backup_seq, f"the backup lost seq {report.last_seq + 1}"
        else:
            assert not self.backup_seq, "the backup is gone"

    def _verify(self, disk: SimDisk, directory: str) -> Verified:
        """`verify`, once for equal names and bytes."""
        key = (directory, disk.image_below(directory))
        report = self._verified.get(key)
        if report is None:
            report = self._verified[key] = verify(disk, directory)
        return report

    def holds_but_for_files(self, server: Server) -> int:
        """Asserts what opening itself answers for: the log, the state and the agent files. Returns the last seq."""
        log = server.core.log
        assert log.epoch > self.epoch, f"epoch {log.epoch} was used before"
        reader = server.reader
        self._log(reader)
        seq = reader.last_seq
        state = server.core.state
        assert state.applied_seq == seq, f"memory.db is at {state.applied_seq}, the journal ends at {seq}"
        assert server.memory.digest() == self.reference.digest(seq), f"the state at seq {seq} is not the events'"
        self._agents(server.disk, seq)
        return seq

    def _log(self, reader: LogReader) -> None:
        found: dict[str, tuple[int, int, int]] = {}
        next_seq = 1
        for batch in reader.batches():
            assert batch.first_seq == next_seq, f"seq {batch.first_seq} where {next_seq} belongs"
            next_seq = batch.last_seq + 1
            chain = batch.chain.hex()
            found[chain] = (batch.first_seq, batch.last_seq, batch.epoch)
            if chain in self._known:
                continue
            for seq, record in enumerate(batch.records(), batch.first_seq):
                assert seq <= len(self.reference.sent), f"seq {seq} was never sent"
                sent = self.reference.sent[seq - 1]
                assert (record.time, record.agent, record.event) == sent, f"seq {seq} is {record}, not {sent}"
            self._known.add(chain)
        for chain, promised in self.batches.items():
            there = found.get(chain)
            assert there is not None, (
                f"acknowledged seqs {promised[0]}-{promised[1]} are lost; it ends at {next_seq - 1}"
            )
            assert there == promised, f"acknowledged batch {promised} became {there}"
        assert next_seq > self.reaches, f"seq {self.reaches} was found by an earlier open, and is lost"
        for first, last in self.reference.groups.items():
            assert not first < next_seq <= last, f"a part of the group {first}-{last} is there"
        if self.last is not None:
            prove(reader, self.last)

    def _agents(self, disk: SimDisk, seq: int) -> None:
        expected = {f"{agent.name}.md": agent.content for agent in self.reference.states[seq].agents.values()}
        found = {name for name in disk.list(LAYOUT.agents) if name.endswith(".md")}
        assert found == set(expected), f"agent files {sorted(found)} where {sorted(expected)} belong"
        for name, content in expected.items():
            assert disk.read(f"{LAYOUT.agents}/{name}") == content, f"{name} is not its journaled version"

    def _checkpoints(self, server: Server, last_seq: int) -> None:
        manifests, damaged = server.checkpoints.scan()
        assert not damaged, damaged
        there = {manifest.seq: manifest for manifest in manifests if manifest.state == "verified"}
        for seq, manifest in there.items():
            assert seq <= last_seq, f"a checkpoint at {seq}, beyond the journal's end at {last_seq}"
            assert manifest.digest == self.reference.digest(seq), f"the checkpoint at {seq} is of another state"
        for seq in self.checkpoints:
            assert seq in there, f"the checkpoint at {seq} is not on the ladder any more"
            for part in there[seq].parts:
                found = sha256(server.disk.read(server.checkpoints.part_path(part))).hexdigest()
                assert found == part.sha256, f"the checkpoint at {seq} has a part of other bytes"
