"""Corruption that nothing repairs: what can be read goes on in a successor, what cannot is named, all stays."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from journal.errors import Diverged
from journal.events import EntityCreated, JournalEventLost, ObservationAdded, StateRestored, TagCreated
from journal.holder import read_holder
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery import open_server_sync
from recovery.data import Data
from recovery.log import accept_loss as accepting
from recovery.log.accept_loss import accept_loss
from recovery.reading import reading
from recovery.setup import initialise
from replay.digest import state_digest
from replay.model import Model
from tests.commands import Command, process
from tests.journals import segment_files
from tests.second_reader import read_journal

EVENTS = 40
CONFIG = b"---\nname: writer\n---\n"


def history(root: Path) -> list[dict[str, Any]]:
    """40 events in several segments of two epochs, one a batch but for a group; returns the receipts."""
    initialise(root)
    receipts = []
    (root / "journal.yaml").write_text("segment_bytes_max: 65536\n")
    for first, last in ((1, 20), (21, EVENTS)):
        with open_server_sync(root, background=False) as hook:
            seq = first
            while seq <= last:
                if seq == 1:
                    made = [hook.append(EntityCreated("global", "Acme", "company"), op_id="first")]
                elif seq in (10, 30):
                    events = [EntityCreated("global", f"{seq + n}", "thing") for n in range(3)]
                    made = hook.append_all(events, agent="sales", op_id=f"group-{seq}")
                elif seq == 15:
                    made = [hook.agents.write("writer", CONFIG)]
                elif seq == 25:
                    made = [hook.append(TagCreated("here", 24))]
                else:
                    text = f"fact {seq} " + "x" * 4000
                    op_id = f"op-{seq}" if seq % 2 else None
                    made = [hook.append(ObservationAdded("global", "Acme", text), op_id=op_id)]
                receipts += made
                seq += len(made)
            if last == EVENTS:
                hook.checkpoint()
    assert len(segment_files(str(root / "journal"))) >= 4
    return [{name: getattr(each, name) for name in each.__struct_fields__} for each in receipts]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """With no parity: what that can restore is no loss, and is refused to be given up."""
    root = tmp_path_factory.mktemp("made") / "data"
    receipts = history(root)
    shutil.rmtree(root / "journal" / "parity")
    return root, receipts


@pytest.fixture
def journal(made: tuple[Path, list[dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    shutil.copytree(made[0], tmp_path / "data", symlinks=True)
    return Command(tmp_path / "data", capsys)


def holding(data: Path, text: str) -> Path:
    return next(path for path in segment_files(str(data / "journal")) if text.encode() in path.read_bytes())


def overwrite(data: Path, text: str, *, keep_length: int = 0) -> None:
    """Wipes bytes in the middle of what holds the text: no single bit explains it."""
    path = holding(data, text)
    content = bytearray(path.read_bytes())
    at = content.index(text.encode())
    content[at + 2 : at + 60] = b"\xee" * 58
    path.write_bytes(content)


def records(directory: Path) -> list[dict[str, Any]]:
    return read_journal(directory).records


def expected_model(directory: Path) -> Model:
    """The reference projection over what the successor says, read by the reader that shares no code."""
    model = Model()
    for batch in LogReader(RealStorage(), str(directory)).batches():
        for seq, record in enumerate(batch.records(), batch.first_seq):
            model.apply(seq, record.time, record.agent, record.event)
    return model


def wipe_fact(seq: int) -> Callable[[Path], None]:
    return lambda data: overwrite(data, f"fact {seq} ")


def wipe_two(data: Path) -> None:
    overwrite(data, "fact 5 ")
    overwrite(data, "fact 28 ")


def wipe_group(data: Path) -> None:
    path = holding(data, "group-30")
    path.write_bytes(path.read_bytes().replace(b"group-30", b"\xee\xee\xee\xee\xee\xee\xee\xee"))


def wipe_header(data: Path) -> None:
    path = segment_files(str(data / "journal"))[2]
    path.write_bytes(b"\xee" * 64 + path.read_bytes()[64:])


def wipe_first_header(data: Path) -> None:
    path = segment_files(str(data / "journal"))[1]  # the first one is the empty one of init
    path.write_bytes(b"\xee" * 64 + path.read_bytes()[64:])


def remove_middle(data: Path) -> None:
    segment_files(str(data / "journal"))[2].unlink()


def remove_first(data: Path) -> None:
    for path in segment_files(str(data / "journal"))[:2]:
        path.unlink()


def remove_last(data: Path) -> None:
    segment_files(str(data / "journal"))[-1].unlink()


def cut_middle(data: Path) -> None:
    path = segment_files(str(data / "journal"))[1]
    path.write_bytes(path.read_bytes()[:30_000])


def zero_sector(data: Path) -> None:
    path = holding(data, "fact 6 ")
    content = bytearray(path.read_bytes())
    at = content.index(b"fact 6 ") // 512 * 512
    content[at : at + 512] = bytes(512)
    path.write_bytes(content)


def double(data: Path) -> None:
    """A copy under another name beside damage elsewhere."""
    path = segment_files(str(data / "journal"))[2]
    shutil.copy(path, path.with_name("0000000000009999-000009.seg"))
    overwrite(data, "fact 5 ")


DAMAGE: dict[str, tuple[Callable[[Path], None], list[tuple[int, int]] | None]] = {
    "one event": (wipe_fact(5), [(5, 5)]),
    "the last events of the log": (wipe_fact(40), [(40, 40)]),
    "the first fact": (wipe_fact(2), [(2, 2)]),
    "two places": (wipe_two, [(5, 5), (28, 28)]),
    "a group": (wipe_group, [(30, 32)]),
    "a segment's header": (wipe_header, []),
    "the first segment's header": (wipe_first_header, []),
    "a segment gone": (remove_middle, None),
    "the first segments gone": (remove_first, None),
    "the last segment gone": (remove_last, None),
    "a segment cut short": (cut_middle, None),
    "a sector of zeros": (zero_sector, None),
    "a segment doubled": (double, [(5, 5)]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_survives_goes_on_under_its_own_seqs_and_each_loss_is_marked(
    journal: Command, made: tuple[Path, list[dict[str, Any]]], name: str
) -> None:
    damage, lost = DAMAGE[name]
    before = {record["seq"]: record for record in records(made[0] / "journal")}
    last = max(before)
    damage(journal.data)
    damaged = {path.name: path.read_bytes() for path in segment_files(str(journal.data / "journal"))}
    assert journal("verify").code in (12, 14)

    told = journal.json("recover", "journal", "--accept-loss", "--dry-run")["loss"]
    found = [tuple(each) for each in told["lost"]]
    assert lost is None or found == lost
    assert told["spots"]
    gone = {seq for first, final in found for seq in range(first, final + 1)}
    assert (told["events_lost"], told["events_kept"]) == (len(gone), last - len(gone))
    assert {path.name: path.read_bytes() for path in segment_files(str(journal.data / "journal"))} == damaged

    claimed = read_holder((journal.data / "journal" / "lock").read_bytes()).epoch
    done = journal.json("recover", "journal", "--accept-loss", "--yes")["result"]
    assert done["epoch"] > claimed, "its marks are told from the parent's events by their epoch"
    after = {record["seq"]: record for record in records(journal.data / "journal")}
    assert sorted(after) == list(range(1, last + 2)), "dense, and one more: journal.forked"
    for seq in range(1, last + 1):
        if seq in gone:
            assert after[seq]["event"]["type"] == "journal.event_lost"
        else:
            assert after[seq] == before[seq]
    forked = after[last + 1]["event"]
    assert (forked["type"], forked["lost"]) == ("journal.forked", [list(each) for each in found])
    times = [after[seq]["time"] for seq in sorted(after)]
    assert times == sorted(times)
    kept = Path(done["parent"])
    assert {path.name: path.read_bytes() for path in segment_files(str(kept))} == damaged
    assert not (journal.data / "journal.successor").exists()

    assert journal("verify").code == 0
    assert journal("recover", "all", "--yes").code == 0
    assert journal("check").code == 0, journal("check").out
    assert journal("verify", "--deep").code == 0
    with reading(str(journal.data / "memory.db")) as connection:
        assert state_digest(connection) == expected_model(journal.data / "journal").digest()
    again = journal("recover", "journal", "--accept-loss", "--yes")
    assert (again.code, "nothing is lost" in again.out) == (0, True)


def test_receipts_of_what_survived_hold_on_both_sides_of_the_loss(
    journal: Command, made: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    wipe_two(journal.data)
    assert journal("recover", "journal", "--accept-loss", "--yes").code == 0
    file = tmp_path / "receipts"
    survived = [each for each in made[1] if each["seq"] not in (5, 28)]
    file.write_text("\n".join(map(json.dumps, survived)))
    assert journal("verify", "--receipt", str(file)).code == 0
    for seq in (5, 28):
        lost = next(each for each in made[1] if each["seq"] == seq)
        ran = journal("verify", "--receipt", json.dumps(lost))
        assert (ran.code, "was lost" in ran.out) == (12, True)
    forged = {**survived[-1], "chain": "00" * 32}
    assert journal("verify", "--receipt", json.dumps(forged)).code == 12


def test_a_head_of_the_parent_is_proven_up_to_the_loss_and_told_of_it_behind(journal: Command, tmp_path: Path) -> None:
    journal("head", "-o", str(tmp_path / "head.json"))
    overwrite(journal.data, "fact 5 ")
    assert journal("recover", "journal", "--accept-loss", "--yes").code == 0
    ran = journal("verify", "--head", str(tmp_path / "head.json"))
    assert (ran.code, "it lost 5-5" in ran.out) == (12, True)
    head = json.loads((tmp_path / "head.json").read_text())
    parent = LogReader(RealStorage(), str(journal.data / "journal"))
    batch = parent.batch_of(4)
    early = {**head, "seq": 4, "chain": batch.chain.hex(), "epoch": batch.epoch, "time": batch.heads()[0].time}
    (tmp_path / "early.json").write_text(json.dumps(early))
    assert journal("verify", "--head", str(tmp_path / "early.json")).code == 0


def test_a_retry_of_what_survived_is_answered_and_one_of_what_was_lost_is_taken(journal: Command) -> None:
    overwrite(journal.data, "fact 5 ")
    assert journal("recover", "journal", "--accept-loss", "--yes").code == 0
    with open_server_sync(journal.data, background=False) as hook:
        end = hook.core.log.next_seq
        again = hook.append(ObservationAdded("global", "Acme", "fact 7 " + "x" * 4000), op_id="op-7")
        assert again.seq == 7
        assert hook.append(ObservationAdded("global", "Acme", "fact 5 " + "x" * 4000), op_id="op-5").seq == end


def test_rows_that_only_the_old_memory_db_holds_are_counted(journal: Command) -> None:
    overwrite(journal.data, "fact 5 ")
    done = journal.json("recover", "journal", "--accept-loss", "--yes")
    assert done["loss"]["checkpoints_beyond"] == 1
    rows = done["result"]["rows_differing"]
    assert (rows["observations"], rows["entities"], rows["agents"]) == (1, 0, 0)


def test_what_only_the_old_memory_db_holds_goes_through_the_file_of_the_mcp_server(journal: Command) -> None:
    """The observation whose event is lost is still in memory.db, which now belongs to the parent: out, and in again."""
    overwrite(journal.data, "fact 5 ")
    done = journal("recover", "journal", "--accept-loss", "--yes")
    assert "journal export mcp" in done.out
    kept = journal.data.parent / "kept.jsonl"
    kept.write_text(journal("export", "mcp").out)
    assert journal("recover", "all", "--yes").code == 0
    taken = journal("import", "mcp", str(kept))
    assert (taken.code, taken.out.splitlines()[0]) == (0, "took in 1 observation into global")
    with reading(Data.at(journal.data).generations.current().path or "") as connection:
        assert connection.execute("SELECT count(*) FROM observations WHERE content LIKE 'fact 5 %'").fetchone() == (1,)


def test_log_and_show_say_lost(journal: Command) -> None:
    overwrite(journal.data, "fact 5 ")
    assert journal("recover", "journal", "--accept-loss", "--yes").code == 0
    assert "LOST: events 5-5" in journal("log").out
    assert "lost" in journal("show", "5").out.lower()
    assert journal("replay", "--until", "tag:here", "-o", f"{journal.data}-24").code == 0


def test_yes_alone_accepts_nothing_and_without_an_answer_nothing_is_done(journal: Command) -> None:
    overwrite(journal.data, "fact 5 ")
    assert journal("recover", "journal", "--yes").code == 12
    journal("recover", "all", "--yes")
    assert process(journal.data, "recover", "journal", "--accept-loss").returncode == 2
    assert not list(journal.data.glob("journal.*-*"))
    ran = journal("recover", "memory", "--accept-loss", "--yes")
    assert (ran.code, "belongs to the journal" in ran.err) == (2, True)


def test_what_one_bit_explains_is_not_given_up(journal: Command) -> None:
    """Two places are damaged, and one of them by a single bit: that one is repaired first, and only the other lost."""
    overwrite(journal.data, "fact 28 ")
    path = holding(journal.data, "fact 5 ")
    content = bytearray(path.read_bytes())
    content[content.index(b"fact 5 ") + 5] ^= 4
    path.write_bytes(content)
    for last in ("--dry-run", "--yes"):
        ran = journal("recover", "journal", "--accept-loss", last)
        assert (ran.code, "journal verify --repair" in ran.err) == (12, True)
    assert not list(journal.data.glob("journal.*-*"))
    journal("verify", "--repair")
    done = journal.json("recover", "journal", "--accept-loss", "--yes")
    assert done["loss"]["lost"] == [[28, 28]]


def test_a_receipt_says_that_more_was_there_than_can_be_seen(
    journal: Command, made: tuple[Path, list[dict[str, Any]]]
) -> None:
    """The last segment and all that knew of it are gone; only the caller's receipt tells."""
    segment_files(str(journal.data / "journal"))[-1].unlink()
    shutil.rmtree(journal.data / "journal/checkpoints")
    for path in journal.data.glob("memory*"):
        path.unlink()
    assert journal.json("recover", "journal", "--accept-loss", "--dry-run")["message"].startswith("nothing is lost")
    last = json.dumps(next(each for each in made[1] if each["seq"] == EVENTS))
    told = journal.json("recover", "journal", "--accept-loss", "--receipt", last, "--dry-run")["loss"]
    assert told["lost"][-1][1] == EVENTS


def test_the_clients_of_serve_go_on_with_the_token_that_they_have(journal: Command) -> None:
    overwrite(journal.data, "fact 5 ")
    token = journal.data / "journal/token"
    token.write_text("a" * 43 + "\n")
    done = journal.json("recover", "journal", "--accept-loss", "--yes")
    assert token.read_text() == (Path(done["result"]["parent"]) / "token").read_text() == "a" * 43 + "\n"
    assert token.stat().st_mode & 0o777 == 0o600
    assert journal.json("verify")["findings"] == []


def test_a_writer_at_work_keeps_its_journal(journal: Command) -> None:
    with open_server_sync(journal.data, background=False):
        overwrite(journal.data, "fact 5 ")
        assert journal("recover", "journal", "--accept-loss", "--yes").code == 11
    assert not list(journal.data.glob("journal.*-*"))


def test_two_histories_are_not_joined(journal: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A segment of another life lies behind the damage: to go on with either would be to choose."""
    shutil.copytree(journal.data, tmp_path / "other", symlinks=True)
    for data, text in ((journal.data, "mine"), (tmp_path / "other", "less")):
        with open_server_sync(data, background=False) as hook:
            for number in range(4):
                hook.append(ObservationAdded("global", "Acme", f"{text} {number}"))
    ours, theirs = (segment_files(str(each / "journal"))[-1] for each in (journal.data, tmp_path / "other"))
    assert ours.name == theirs.name
    shutil.copy(theirs, ours)
    overwrite(journal.data, "fact 5 ")
    with pytest.raises(Diverged):
        accept_loss(Data.at(journal.data))
    assert journal("recover", "journal", "--accept-loss", "--dry-run").code == 14


def test_a_loss_upon_a_loss_keeps_the_first_marks(journal: Command) -> None:
    overwrite(journal.data, "fact 28 ")
    assert journal("recover", "journal", "--accept-loss", "--yes").code == 0
    assert journal("recover", "all", "--yes").code == 0
    overwrite(journal.data, "fact 5 ")
    assert journal("recover", "journal", "--accept-loss", "--yes").code == 0
    assert journal("verify").code == 0
    lost = {}
    for batch in LogReader(RealStorage(), str(journal.data / "journal")).batches():
        for seq, record in enumerate(batch.records(), batch.first_seq):
            if isinstance(record.event, JournalEventLost):
                lost[seq] = (record.event.first_seq, record.event.last_seq)
    assert lost == {5: (5, 5), 28: (28, 28)}
    assert len(list(journal.data.glob("journal.parent-*"))) == 2
    assert journal("recover", "all", "--yes").code == 0
    assert journal("verify", "--deep").code == 0


def test_a_restore_and_a_moment_keep_their_meaning(journal: Command) -> None:
    with open_server_sync(journal.data, background=False) as hook:
        hook.restore(8)
        hook.append(EntityCreated("global", "late", "thing"))
    overwrite(journal.data, "fact 5 ")
    assert journal("recover", "journal", "--accept-loss", "--yes").code == 0
    assert journal("recover", "all", "--yes").code == 0
    assert any(record["event"]["type"] == StateRestored.type_name for record in records(journal.data / "journal"))
    with reading(str(journal.data / "memory.db")) as connection:
        assert state_digest(connection) == expected_model(journal.data / "journal").digest()
        facts = {int(text.split()[1]) for (text,) in connection.execute("SELECT content FROM observations")}
    assert facts == {2, 3, 4, 6, 7, 8}


# -- killed -----------------------------------------------------------------------------------------------------------


class Cut(BaseException):
    """Stands for SIGKILL at a step of this process; tests.killing has the real one."""


@pytest.mark.parametrize(("swaps", "step"), [(True, 2), (False, 3)], ids=["exchange", "two renames"])
def test_cut_before_each_change_it_leaves_parent_or_successor_and_the_same_command_ends_it(
    made: tuple[Path, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool, step: int
) -> None:
    if not swaps:
        monkeypatch.setattr(accepting, "exchange", lambda one, other: False)
    cuts, number = 0, 1 - step
    while True:
        number += step
        root = tmp_path / f"{number}"
        shutil.copytree(made[0], root, symlinks=True)
        overwrite(root, "fact 5 ")
        child = os.fork()
        if child == 0:
            status = 0
            try:
                accept_loss(Data(str(root), Data.at(root).config, _CuttingStorage(number)))
            except BaseException:
                status = 1
            finally:
                os._exit(status)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        cuts += 1
        if swaps:
            assert LogReader(RealStorage(), str(root / "journal")).segments, "neither parent nor successor"
        data = Data.at(root)
        accepting.finish(data)
        accept_loss(data)
        assert records(root / "journal")[4]["event"]["type"] == "journal.event_lost"
        assert len(records(root / "journal")) == len(records(made[0] / "journal")) + 1
        (parent,) = root.glob("journal.parent-*")
        assert b"\xee" * 58 in b"".join(path.read_bytes() for path in segment_files(str(parent)))
        assert not (root / "journal.successor").exists()
        shutil.rmtree(root)
    assert cuts >= 15 // step


class _CuttingStorage(RealStorage):
    """Ends this process before the n-th change, as SIGKILL does: no handler runs, the locks fall."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _change(self) -> None:
        self.left -= 1
        if self.left == 0:
            os._exit(9)

    def open(self, path: str, *, write: bool = False, create: bool = False) -> Any:
        if create:
            self._change()
        return super().open(path, write=write, create=create)

    def make_directory(self, path: str) -> None:
        if self.kind(path) == "missing":
            self._change()
        super().make_directory(path)

    def replace(self, source: str, target: str) -> None:
        self._change()
        super().replace(source, target)

    def remove(self, path: str) -> None:
        self._change()
        super().remove(path)

    def sync_dir(self, path: str) -> None:
        self._change()
        super().sync_dir(path)
