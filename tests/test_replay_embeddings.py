"""Vectors that are missing, interrupted, shared or damaged: what is pending, what is dropped, what is computed."""

from __future__ import annotations

import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from zlib import crc32

import pytest

from replay import embeddings
from replay.embeddings import Embedder, Row
from replay.encoder import Model, ModelDamaged, NoModel
from replay.schema import connect, create
from tests.vectors import Writer, cosine, embed, key_of, observe

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("model")]

TEXTS = [
    "The contract with Acme was renewed in May.",
    "Invoices are sent on the first working day of the month.",
    "ok",
    "عُقدة 🪢 ‮ with a NUL \0 inside",
    "The gateway answers slowly when the cache is cold. " * 40,
]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(tmp_path / "memory-000001.db")
    create(connection)
    yield connection
    connection.close()


def vectors_of(connection: sqlite3.Connection) -> dict[bytes, tuple[float, ...]]:
    rows = connection.execute("SELECT text_sha256, vector FROM embeddings")
    return {key: struct.unpack(f"<{len(vector) // 4}f", vector) for key, vector in rows}


# -- computing --------------------------------------------------------------------------------------------------------


def test_every_text_gets_a_vector_that_can_be_proven(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, TEXTS)
    assert embeddings.pending(memory, embedding_model.fingerprint) == len(TEXTS)
    write = embed(embedding_model, memory)
    assert sorted(write.keys) == sorted(key_of(text) for text in TEXTS)
    assert embeddings.pending(memory, embedding_model.fingerprint) == 0
    for model, vector, checksum in memory.execute("SELECT model, vector, checksum FROM embeddings"):
        assert model == embedding_model.fingerprint
        assert len(vector) == 4 * 384
        assert crc32(vector) == checksum
        assert embeddings.fault(vector, checksum, 384) is None


def test_the_size_of_a_batch_does_not_change_what_a_text_means(embedding_model: Model, memory: sqlite3.Connection):
    texts = [f"{text} {number}" for number in range(4) for text in TEXTS]
    observe(memory, texts)
    found = []
    for batch, window in ((1, 5), (3, 20), (32, 1024)):
        memory.execute("DELETE FROM embeddings")
        write = embed(embedding_model, memory, batch=batch, window=window)
        assert max(map(len, write.batches)) == min(batch, len(texts))
        found.append(vectors_of(memory))
    for key, vector in found[0].items():
        assert cosine(vector, found[1][key]) >= 0.99999
        assert cosine(vector, found[2][key]) >= 0.99999
    one, other = list(found[0].values())[:2]
    assert cosine(one, other) < 0.99999


def test_equal_texts_share_one_vector(embedding_model: Model, memory: sqlite3.Connection):
    """The same words about two things, in one page and in pages apart."""
    observe(memory, ["renewed in May", "paid late"], entity=1)
    observe(memory, ["renewed in May", "prefers mail", "paid late"], entity=2)
    assert embeddings.pending(memory, embedding_model.fingerprint) == 3
    write = embed(embedding_model, memory, batch=1, window=2)
    assert sorted(write.keys) == sorted(map(key_of, ("renewed in May", "paid late", "prefers mail")))


def test_texts_of_like_length_are_encoded_together(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, ["a" * 200, "b", "c" * 210, "d"])
    write = embed(embedding_model, memory, batch=2)
    assert [set(batch) for batch in write.batches] == [
        {key_of("b"), key_of("d")},
        {key_of("a" * 200), key_of("c" * 210)},
    ]


def test_progress_counts_texts_up_to_the_total(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, [f"fact {number}" for number in range(5)])
    seen: list[tuple[int, int]] = []
    Embedder(embedding_model, batch=2).run(memory, Writer(memory), progress=lambda *at: seen.append(at))
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_texts_that_arrive_during_a_run_are_embedded_by_it(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, ["first", "second"])
    write = Writer(memory)
    late = ["third"]

    def write_and_observe(rows: Sequence[Row]) -> None:
        write(rows)
        while late:
            observe(memory, [late.pop()])

    seen: list[tuple[int, int]] = []
    Embedder(embedding_model, window=2).run(memory, write_and_observe, progress=lambda *at: seen.append(at))
    assert key_of("third") in write.keys
    assert seen == [(0, 2), (2, 2), (3, 3)]


def test_stopped_between_batches_and_resumed(embedding_model: Model, memory: sqlite3.Connection):
    texts = [f"fact number {number}" for number in range(10)]
    observe(memory, texts)
    write = Writer(memory)
    embedder = Embedder(embedding_model, batch=2, window=4)
    first = embedder.run(memory, write, stop=lambda: len(write.batches) == 3)
    assert (first.done, first.stopped) == (6, True)
    assert embeddings.pending(memory, embedding_model.fingerprint) == 4
    second = embedder.run(memory, write, after=first.last_id)
    assert (second.done, second.stopped) == (4, False)
    assert sorted(write.keys) == sorted(map(key_of, texts))
    assert embeddings.pending(memory, embedding_model.fingerprint) == 0


def test_a_write_that_fails_loses_its_batch_and_no_other(embedding_model: Model, memory: sqlite3.Connection):
    texts = [f"fact number {number}" for number in range(6)]
    observe(memory, texts)
    write = Writer(memory)

    def fail_once(rows: Sequence[Row]) -> None:
        if len(write.batches) == 1:
            raise sqlite3.OperationalError("database or disk is full")
        write(rows)

    with pytest.raises(sqlite3.OperationalError):
        Embedder(embedding_model, batch=2).run(memory, fail_once)
    rest = embed(embedding_model, memory)
    assert len(rest.keys) == 4
    assert sorted(write.keys + rest.keys) == sorted(map(key_of, texts))


def test_a_later_run_looks_only_at_what_came_since(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, ["first", "second"])
    embedder = Embedder(embedding_model)
    last_id = embedder.run(memory, Writer(memory)).last_id
    assert last_id == memory.execute("SELECT max(id) FROM observations").fetchone()[0]
    assert embedder.run(memory, Writer(memory), after=last_id).last_id == last_id
    memory.execute("DELETE FROM embeddings")
    observe(memory, ["third"])
    write = Writer(memory)
    embedder.run(memory, write, after=last_id)
    assert write.keys == [key_of("third")]


# -- pending ----------------------------------------------------------------------------------------------------------


def test_pages_follow_each_other_and_skip_what_has_a_vector(embedding_model: Model, memory: sqlite3.Connection):
    texts = [f"fact number {number}" for number in range(7)]
    observe(memory, texts)
    vector = struct.pack("<384f", *[0.5] * 384)
    embeddings.store(memory, [Row(key_of(texts[1]), "a model", vector, crc32(vector))])
    after, pages = 0, []
    while (page := embeddings.pending_texts(memory, "a model", after, 3)).texts:
        pages.append([text.content for text in page.texts])
        after = page.last_id
    assert pages == [[texts[0], texts[2], texts[3]], texts[4:]]


def test_a_vector_of_another_model_does_not_count(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, ["first", "second"])
    vector = struct.pack("<384f", *[0.5] * 384)
    embeddings.store(memory, [Row(key_of("first"), "an older model", vector, crc32(vector))])
    assert embeddings.pending(memory, embedding_model.fingerprint) == 2
    assert embeddings.pending(memory, "an older model") == 1
    assert embeddings.pending(memory, None) == 1
    page = embeddings.pending_texts(memory, embedding_model.fingerprint, 0, 10)
    assert [text.content for text in page.texts] == ["first", "second"]


def test_vectors_of_removed_observations_are_not_pending(memory: sqlite3.Connection):
    observe(memory, ["first"])
    memory.execute("DELETE FROM observations")
    assert embeddings.pending(memory, None) == 0


def test_an_altered_text_gets_no_vector_under_the_key_of_the_true_one(
    embedding_model: Model, memory: sqlite3.Connection
):
    """Another program changed text inside rows, once to bytes that are no text; the true text stands elsewhere too."""
    observe(memory, ["paid on time", "prefers mail"], entity=1)
    memory.execute("UPDATE observations SET content = 'paid  never!' WHERE id = 1001")
    memory.execute("UPDATE observations SET content = CAST(x'ff00fe' AS TEXT) WHERE id = 1002")
    observe(memory, ["paid on time"], entity=2)
    write = Writer(memory)
    ran = Embedder(embedding_model).run(memory, write)
    assert write.keys == [key_of("paid on time")]
    assert ran.altered == [1001, 1002]
    true = embedding_model.encode(["paid on time"])[0].tolist()
    assert cosine(vectors_of(memory)[key_of("paid on time")], true) >= 0.99999


# -- damage -----------------------------------------------------------------------------------------------------------


def nan_inside(vector: bytes) -> tuple[bytes, int]:
    changed = vector[:40] + struct.pack("<f", float("nan")) + vector[44:]
    return changed, crc32(changed)


def infinity_inside(vector: bytes) -> tuple[bytes, int]:
    changed = vector[:40] + struct.pack("<f", float("-inf")) + vector[44:]
    return changed, crc32(changed)


def too_short(vector: bytes) -> tuple[bytes, int]:
    return vector[:-4], crc32(vector[:-4])


def another_models_size(vector: bytes) -> tuple[bytes, int]:
    return vector * 2, crc32(vector * 2)


def one_bit_flipped(vector: bytes) -> tuple[bytes, int]:
    return vector[:100] + bytes([vector[100] ^ 1]) + vector[101:], crc32(vector)


def checksum_flipped(vector: bytes) -> tuple[bytes, int]:
    return vector, crc32(vector) ^ 1


def zeroed(vector: bytes) -> tuple[bytes, int]:
    return bytes(len(vector)), crc32(bytes(len(vector)))


def text_instead(vector: bytes) -> tuple[str, int]:
    return "no vector", 0


DAMAGE = {
    nan_inside: "not finite",
    infinity_inside: "not finite",
    too_short: "1532 bytes, 1536 expected",
    another_models_size: "3072 bytes, 1536 expected",
    one_bit_flipped: "checksum",
    checksum_flipped: "checksum",
    zeroed: "all numbers are zero",
    text_instead: "a str, not bytes",
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.items(), ids=[each.__name__ for each in DAMAGE])
def test_a_damaged_vector_is_named_dropped_and_computed_again(
    embedding_model: Model, memory: sqlite3.Connection, damage, reason: str
):
    texts = ["The contract was renewed.", "Invoices are late."]
    observe(memory, texts)
    embed(embedding_model, memory)
    whole = vectors_of(memory)
    victim = key_of(texts[0])
    (vector,) = memory.execute("SELECT vector FROM embeddings WHERE text_sha256 = ?", (victim,)).fetchone()
    memory.execute("UPDATE embeddings SET vector = ?, checksum = ? WHERE text_sha256 = ?", (*damage(vector), victim))

    embedder = Embedder(embedding_model)
    bad = embedder.verify(memory, lambda keys: embeddings.drop(memory, embedding_model.fingerprint, keys))
    assert [each.text_sha256 for each in bad] == [victim]
    assert reason in bad[0].reason
    assert embeddings.pending(memory, embedding_model.fingerprint) == 1

    assert embed(embedding_model, memory).keys == [victim]
    assert cosine(vectors_of(memory)[victim], whole[victim]) >= 0.99999
    assert embedder.verify(memory, lambda keys: pytest.fail("nothing is damaged")) == []


def test_the_vectors_of_other_models_are_neither_judged_nor_dropped(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, ["first"])
    embed(embedding_model, memory)
    embeddings.store(memory, [Row(key_of("first"), "a wider model", bytes(8), 1)])
    assert Embedder(embedding_model).verify(memory, lambda keys: pytest.fail("nothing is damaged")) == []
    embeddings.drop(memory, embedding_model.fingerprint, [key_of("first")])
    assert memory.execute("SELECT model FROM embeddings").fetchall() == [("a wider model",)]


# -- the model --------------------------------------------------------------------------------------------------------


def linked_copy(model: Model, directory: Path) -> Path:
    """The model's files under another path, without copying the weights."""
    for source in model.path.rglob("*"):
        target = directory / source.relative_to(model.path)
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    return directory


def test_the_fingerprint_is_that_of_sha256sum(embedding_model: Model, tmp_path: Path):
    directory = linked_copy(embedding_model, tmp_path / "models" / "all-MiniLM-L6-v2")
    command = (
        "sha256sum $(printf '%s\\n' 1_Pooling/config.json *.json model.safetensors vocab.txt | grep -v data_config"
    )
    command += " | LC_ALL=C sort) | sha256sum"
    shown = subprocess.run(["sh", "-c", command], cwd=directory, capture_output=True, text=True, check=True).stdout
    assert Model.find(tmp_path).fingerprint == shown.split()[0] == embedding_model.fingerprint


def test_the_fingerprint_follows_what_determines_vectors_only(embedding_model: Model, tmp_path: Path):
    directory = linked_copy(embedding_model, tmp_path)
    (directory / "README.md").unlink()
    (directory / "onnx").mkdir()
    (directory / "onnx" / "config.json").write_text("{}")
    (directory / "pytorch_model.bin").write_bytes(b"the older format, not loaded beside safetensors")
    assert Model(directory).fingerprint == embedding_model.fingerprint
    for name in ("1_Pooling/config.json", "vocab.txt", "tokenizer.json"):
        before = Model(directory).fingerprint
        content = (directory / name).read_bytes()
        (directory / name).unlink()
        (directory / name).write_bytes(content + b"\n")
        assert Model(directory).fingerprint != before


def test_a_damaged_model_is_refused_not_used(embedding_model: Model, tmp_path: Path):
    directory = linked_copy(embedding_model, tmp_path)
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").write_bytes(b"\0" * 4096)
    with pytest.raises(ModelDamaged, match="cannot be loaded") as caught:
        Model(directory).encode(["a text"])
    assert caught.value.path == str(directory)


def test_weights_that_make_no_numbers_write_nothing(embedding_model: Model, memory: sqlite3.Connection, tmp_path: Path):
    """Every weight of the last layer is NaN, as after a page of 0xFF: the file loads, the vectors are worthless."""
    from safetensors.numpy import load_file, save_file

    directory = linked_copy(embedding_model, tmp_path / "model")
    tensors = load_file(directory / "model.safetensors")
    tensors["encoder.layer.5.output.dense.bias"][:] = float("nan")
    (directory / "model.safetensors").unlink()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    observe(memory, ["a text"])
    with pytest.raises(ModelDamaged, match="no usable vectors"):
        embed(Model(directory), memory)
    assert memory.execute("SELECT count(*) FROM embeddings").fetchone() == (0,)


@pytest.mark.parametrize("name", ["modules.json", "config.json", "model.safetensors"])
def test_an_incomplete_model_says_what_is_missing(embedding_model: Model, tmp_path: Path, name: str):
    directory = linked_copy(embedding_model, tmp_path)
    (directory / name).unlink()
    with pytest.raises(NoModel, match=name):
        Model(directory)


def test_no_model_at_all(tmp_path: Path):
    with pytest.raises(NoModel, match="the directory is missing") as caught:
        Model.find(tmp_path)
    assert caught.value.path == str(tmp_path / "models" / "all-MiniLM-L6-v2")
    with pytest.raises(NoModel):
        Model.find(tmp_path, configured=tmp_path / "elsewhere")


def test_the_size_of_a_vector_is_known_before_the_weights_are_loaded(embedding_model: Model):
    model = Model(embedding_model.path)
    assert model.dimension == 384 == embedding_model.encode(["a text"]).shape[1]


def test_encoding_leaves_half_the_cores_and_the_settings_of_torch_alone(embedding_model: Model):
    import torch

    assert embedding_model.threads == max(1, (os.cpu_count() or 1) // 2)
    before = torch.get_num_threads()
    model = Model(embedding_model.path, threads=before + 1)
    during: list[int] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: during.append(torch.get_num_threads()))
    try:
        model.encode(["a text"])
    finally:
        hook.remove()
    assert set(during) == {before + 1}
    assert torch.get_num_threads() == before


# -- without the extra, and without the network -----------------------------------------------------------------------


def run_python(code: str, *arguments: str, silent: bool = True) -> str:
    """In a process of its own: what is imported there, and how, is the point."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not silent or done.stderr == ""
    return done.stdout


def test_loading_and_encoding_ask_the_network_for_nothing_and_draw_nothing(embedding_model: Model):
    code = """
import os, sys
os.environ.pop("HF_HUB_OFFLINE", None)
asked = []
sys.addaudithook(lambda event, args: asked.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
from replay.encoder import Model
print(Model(sys.argv[1]).encode(["a text"]).shape, asked)
"""
    assert run_python(code, str(embedding_model.path)) == "(1, 384) []\n"


def test_without_the_extra_all_but_computing_works(embedding_model: Model, memory: sqlite3.Connection, tmp_path: Path):
    observe(memory, ["first", "second"])
    memory.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    code = """
import sys
for name in ("numpy", "torch", "sentence_transformers", "transformers"):
    sys.modules[name] = None  # as if it were not installed
from replay import embeddings, search
from replay.encoder import Model, MissingExtra, is_available
from replay.schema import connect
connection = connect(sys.argv[2])
model = Model(sys.argv[1])
print(is_available(), embeddings.pending(connection, model.fingerprint), embeddings.pending(connection, None))
print(list(embeddings.damaged(connection, model.fingerprint, model.dimension)))
for attempt in (
    lambda: search.SearchIndex(model).search(connection, "a text"),
    lambda: embeddings.Embedder(model).run(connection, print),
):
    try:
        attempt()
    except MissingExtra as error:
        print(error.code, error.exit_code, error.hint.split(" (")[0])
"""
    shown = run_python(code, str(embedding_model.path), str(tmp_path / "memory-000001.db")).splitlines()
    assert shown == ["False 2 2", "[]", *["missing_extra 1 pip install 'agent-journal[embeddings]'"] * 2]


def test_a_half_installed_extra_says_what_does_not_load(embedding_model: Model):
    code = """
import sys
sys.modules["torch"] = None
from replay.encoder import Model, MissingExtra, is_available
assert is_available()
try:
    Model(sys.argv[1]).encode(["a text"])
except MissingExtra as error:
    print(error.message)
"""
    shown = run_python(code, str(embedding_model.path), silent=False)  # transformers logs that torch is missing
    assert shown.startswith("searching needs the extra 'embeddings', which does not load: ")
    assert "torch" in shown


def test_nothing_heavy_is_imported_before_a_text_is_encoded(embedding_model: Model):
    code = """
import sys
from replay import embeddings, search
from replay.encoder import Model, is_available
model = Model(sys.argv[1])
print(is_available(), len(model.fingerprint), model.dimension)
print(sorted({"numpy", "torch", "transformers", "sentence_transformers"} & set(sys.modules)))
"""
    assert run_python(code, str(embedding_model.path)) == "True 64 384\n[]\n"
