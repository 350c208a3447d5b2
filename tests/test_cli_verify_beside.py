"""Verify beside a server: checkpoints are made and pruned while it reads, and none of that is damage."""

from __future__ import annotations

from pathlib import Path
from time import time_ns

import msgspec
import pytest

from journal.checkpoint import CheckpointStore, Manifest, Part, Whole
from journal.events import ObservationAdded
from journal.storage import RealStorage
from recovery import open_server_sync
from tests.commands import Command, small_history


@pytest.fixture
def journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


@pytest.fixture
def store(journal: Command) -> CheckpointStore:
    """Two checkpoints that share no part of memory.db."""
    with open_server_sync(journal.data, background=False) as hook:
        hook.checkpoint()
        hook.append(ObservationAdded("global", "Acme", "a fact that makes other pages"))
        hook.checkpoint()
    return CheckpointStore(RealStorage(), str(journal.data / "journal" / "checkpoints"))


@pytest.mark.parametrize("words", [("verify",), ("verify", "--deep"), ("checkpoint", "verify")])
def test_a_checkpoint_that_is_only_written_yet_is_no_damage(
    journal: Command, store: CheckpointStore, words: tuple[str, ...]
) -> None:
    """As it is for the seconds in which it is proven, and for ever where its process was killed in them."""
    manifest = store.manifests()[0]
    whole = manifest.whole
    assert isinstance(whole, Whole)
    written = msgspec.structs.replace(
        manifest, state="written", digest="", verified_at=None, time=time_ns(), whole=Whole(whole.length, "")
    )
    store.publish(written)
    ran = journal(*words, "--json")
    assert ran.code == 0, ran.out
    assert journal.json("checkpoint", "list")["checkpoints"][0]["state"] == "written", "and proves nothing about it"


@pytest.mark.parametrize("words", [("verify",), ("verify", "--deep"), ("checkpoint", "verify")])
def test_a_checkpoint_that_is_pruned_meanwhile_is_no_damage(
    journal: Command, store: CheckpointStore, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest = store.manifests()[-1]
    read = CheckpointStore.read_part

    def pruned(self: CheckpointStore, part: Part) -> bytes:
        if oldest.seq in [each.seq for each in store.manifests()]:
            store.remove([oldest])
            store.sweep()
        return read(self, part)

    monkeypatch.setattr(CheckpointStore, "read_part", pruned)
    ran = journal(*words, "--json")
    assert ran.code == 0, ran.out
    assert oldest.seq not in [each.seq for each in store.manifests()]


@pytest.mark.parametrize("words", [("verify",), ("verify", "--deep"), ("checkpoint", "verify")])
def test_a_part_that_is_missing_is_damage_still(
    journal: Command, store: CheckpointStore, words: tuple[str, ...]
) -> None:
    def only(manifest: Manifest) -> set[str]:
        return {part.sha256 for part in manifest.parts}

    newest, oldest = store.manifests()
    (name, *_) = only(oldest) - only(newest)
    (Path(store.parts_directory) / name).unlink()
    ran = journal(*words)
    assert ran.code == 12
    if words == ("verify",):
        assert "move the manifest of the damaged one away" in ran.out
        assert journal("checkpoint", "create").code == 0
        Path(store.manifest_path(oldest.seq)).rename(journal.data / "damaged.manifest")
        assert journal(*words).code == 0, "what the hint says ends it"
