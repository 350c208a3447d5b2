"""`journal compact`, and packed segments as a user meets them: every verb goes on, a backup loses nothing."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from journal.events import EntityCreated, ObservationAdded
from journal.pack import find_pack
from recovery import open_server_sync
from recovery.data import Data
from recovery.setup import initialise
from tests.commands import Command
from tests.samples import WORDS

EVENTS = 1 + 10 * 200


def grow(data: Path, first: int, groups: int) -> None:
    """Groups of 200 observations of some words each."""
    with open_server_sync(data, background=False) as hook:
        for group in range(first, first + groups):
            texts = (f"{number} {words(number)}" for number in range(group * 200, group * 200 + 200))
            hook.append_all([ObservationAdded("global", "Acme", text) for text in texts], op_id=f"group-{group}")


def words(number: int) -> str:
    return " ".join(WORDS[number * each % len(WORDS)] for each in range(12))


@pytest.fixture
def journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Some segments of 64 KiB, a checkpoint, and parity of what is sealed."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "journal.yaml").write_text("segment_bytes_max: 65536\n")
    initialise(data)
    with open_server_sync(data, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"), op_id="acme")
    grow(data, 0, 10)
    command = Command(data, capsys)
    command.json("checkpoint", "create")
    return command


def files(data: Path, suffix: str, folder: str = "segments") -> list[Path]:
    return sorted((data / "journal" / folder).glob(f"*{suffix}"))


def test_a_dry_run_changes_nothing_and_the_run_does_what_it_said(journal: Command) -> None:
    before = {path: path.read_bytes() for path in files(journal.data, "")}
    told = journal.json("compact", "--dry-run")
    assert {path: path.read_bytes() for path in files(journal.data, "")} == before
    assert len(told["segments"]) > 1
    log = journal("log", "--json").out
    done = journal.json("compact")
    assert (done["segments"], done["bytes_before"], done["skipped"]) == (len(told["segments"]), told["bytes"], [])
    assert done["bytes_after"] < done["bytes_before"] / 3
    assert [str(path.with_suffix(".seg")) for path in files(journal.data, ".pack")] == told["segments"]
    assert not [path for path in told["segments"] if Path(path).exists()]
    assert journal("log", "--json").out == log
    assert journal("compact").out == "nothing to pack\n"
    assert journal.json("verify", "--deep")["ok"] is True
    assert journal.json("check")["health"] == "healthy"
    assert journal("compact", "--dry-run").out == "nothing to pack\n"


def test_a_pack_has_parity_before_its_segment_goes_and_the_segments_goes_with_it(journal: Command) -> None:
    journal("compact")
    packs = [path.name for path in files(journal.data, ".pack")]
    parity = [path.name.removesuffix(".par") for path in files(journal.data, ".par", "parity/segments")]
    assert set(packs) <= set(parity)
    assert not [name for name in parity if name.endswith(".seg") and name.replace(".seg", ".pack") in packs]


def test_a_damaged_pack_is_put_right_from_its_parity_to_the_very_bytes(journal: Command) -> None:
    journal("compact")
    path = files(journal.data, ".pack")[0]
    whole = path.read_bytes()
    block = find_pack(whole, str(path)).blocks[0]
    path.write_bytes(whole[: block.offset + 500] + b"damaged" * 40 + whole[block.offset + 780 :])
    told = journal("verify")
    assert told.code == 12
    assert f"events {block.first_seq}-{block.last_seq}" in told.out
    assert journal("verify", "--repair").code == 0
    assert path.read_bytes() == whole
    path.unlink()  # of so small a file parity is a copy
    assert journal("verify").code == 12
    assert journal("verify", "--repair").code == 0
    assert path.read_bytes() == whole


def test_one_wrong_bit_and_a_damaged_header_need_no_parity(journal: Command) -> None:
    (journal.data / "journal.yaml").write_text("parity: {share: 0}\n")
    shutil.rmtree(journal.data / "journal" / "parity")
    journal("compact")
    path = files(journal.data, ".pack")[0]
    whole = path.read_bytes()
    pack = find_pack(whole, str(path))
    for changed in (
        whole[: pack.blocks[0].offset + 77] + bytes([whole[pack.blocks[0].offset + 77] ^ 4])
        + whole[pack.blocks[0].offset + 78 :],
        bytes(500) + whole[500:],
        whole[: pack.copy_at] + bytes(len(whole) - pack.copy_at),
        whole + b"more",
    ):  # fmt: skip
        path.write_bytes(changed)
        assert journal("verify").code == 12
        assert journal("verify", "--repair").code == 0
        assert path.read_bytes() == whole


def test_a_backup_takes_packs_in_and_loses_nothing(journal: Command, tmp_path: Path) -> None:
    place = tmp_path / "backup"
    journal.json("backup", str(place))
    plain = len(files(place, ".seg"))
    journal("compact")
    second = journal.json("backup", str(place))
    packs = files(journal.data, ".pack")
    assert [path.name for path in files(place, ".pack")] == [path.name for path in packs]
    assert len(files(place, ".seg")) == plain - len(packs), "each is there once"
    assert second["files_copied"] <= len(packs) + 3
    assert journal.json("backup", str(place))["files_copied"] == 0
    log = journal("log", "--json").out
    shutil.rmtree(journal.data / "journal")
    assert journal("recover", "--from", str(place), "--yes").code == 0
    assert journal("log", "--json", "--until", f"seq:{EVENTS}").out == "".join(log.splitlines(keepends=True)[:EVENTS])
    assert journal.json("check")["health"] == "healthy"


@pytest.mark.parametrize("place", [10, 30_000], ids=["header", "batches"])
def test_a_segment_that_rots_beside_its_pack_is_put_right_by_it(journal: Command, place: int) -> None:
    """Packing was cut between the pack's name and the segment's end, and nothing has parity."""
    (journal.data / "journal.yaml").write_text("parity: {share: 0}\n")
    shutil.rmtree(journal.data / "journal" / "parity")
    log = journal("log", "--json").out
    before = {path: path.read_bytes() for path in files(journal.data, ".seg")}
    journal("compact")
    pack = files(journal.data, ".pack")[1]
    segment = pack.with_suffix(".seg")
    whole = before[segment]
    segment.write_bytes(whole[:place] + bytes(700) + whole[place + 700 :])
    assert journal("verify").code == 12
    assert journal("log").code == 12
    told = journal("verify", "--repair")
    assert (told.code, "brought back from its pack" in told.out) == (0, True), told
    assert segment.read_bytes() == whole
    assert journal("log", "--json").out.startswith(log)

    segment.write_bytes(whole[:place] + bytes(700) + whole[place + 700 :])
    pack.write_bytes(pack.read_bytes()[:2000] + bytes(700) + pack.read_bytes()[2700:])
    refused = journal("verify", "--repair")
    assert refused.code == 12, "the pack is no better"
    assert segment.read_bytes() != whole
    journal("compact")
    assert segment.exists(), "a damaged segment is not packed, and nothing goes"


def test_a_lost_block_is_given_up_alone(journal: Command) -> None:
    (journal.data / "journal.yaml").write_text("parity: {share: 0}\n")
    shutil.rmtree(journal.data / "journal" / "parity")
    journal("compact")
    path = files(journal.data, ".pack")[0]
    whole = path.read_bytes()
    block = find_pack(whole, str(path)).blocks[0]
    path.write_bytes(whole[: block.offset] + bytes(block.length) + whole[block.offset + block.length :])
    told = journal.json("recover", "journal", "--accept-loss", "--dry-run")
    assert told["loss"]["lost"] == [[block.first_seq, block.last_seq]]
    assert journal("recover", "journal", "--accept-loss", "--yes").code == 0
    assert journal("verify").code == 0
    assert files(journal.data, ".pack") == [], "a successor is written plain"


def test_a_server_packs_after_its_checkpoints_and_writes_on(journal: Command) -> None:
    config = "segment_bytes_max: 65536\nsegments: {pack: true}\ncheckpoint: {events: 300}\n"
    (journal.data / "journal.yaml").write_text(config)
    with open_server_sync(journal.data) as hook:
        for number in range(320):
            hook.append(EntityCreated("global", f"e{number}", "thing"))
        deadline = time.monotonic() + 60
        while not files(journal.data, ".pack") or files(journal.data, ".tmp"):
            assert time.monotonic() < deadline, "it did not come"
            time.sleep(0.1)
        hook.append(EntityCreated("global", "last", "thing"))
    assert journal.json("verify")["ok"] is True
    assert Data.at(journal.data).reader().last_seq > EVENTS + 321


def test_where_no_journal_is_nothing_is_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Command(tmp_path, capsys)("compact").code == 10
