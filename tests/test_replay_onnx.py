"""The backend onnx: the vectors of torch from the same weights, without torch.

Each scenario runs on the real model or on a real one of another shape; where ONNX Runtime is not installed they say so.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from journal.events import EntityCreated, ObservationAdded
from recovery.server import open_server_sync
from replay import embeddings, encoder
from replay.embeddings import Embedder
from replay.encoder import MissingExtra, Model
from replay.model_files import ModelDamaged
from replay.onnx_graph import UnsuitableModel
from replay.schema import connect, create
from tests.command import ENVIRONMENT, journal
from tests.model_place import NAME, copy_of_the_model, initialised_at, real_model, small_model
from tests.vectors import Writer, cosine, embed, observe

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed: pip install 'agent-journal[onnx]'")
pytestmark = pytest.mark.model

COSINE_MIN = 0.99999  # as docs/embeddings.md says of one model's vectors

SCRIPTS = (
    "", " ", "a", "The journal remembers what the server forgets.", "ÜBER Straße naïve café", "契約は五月に更新された",
    "عقد الخدمة تجدد في مايو", "договор продлён в мае", "🙂 🚀 emoji 🙃", "tab\tand\nnewline", "UPPER lower MiXeD",
    "x" * 500, "[CLS] [SEP] [PAD] special names", "1234567890 " * 40, "a\u0000b", "e\u0301 against é", "word " * 600,
)  # fmt: skip
WORDS = ("renewed", "contract", "May", "buyer", "prefers", "mail", "over", "calls", "invoices", "late", "Acme")


def some_texts(count: int) -> list[str]:
    """Of one to 40 words, in no order of length, and some in other scripts."""
    rng = random.Random(11)
    return [*SCRIPTS, *(" ".join(rng.choices(WORDS, k=rng.randrange(1, 40))) for _ in range(count - len(SCRIPTS)))]


@pytest.fixture(scope="module")
def onnx_model() -> Model:
    return Model(real_model(), backend="onnx")


@pytest.fixture
def memory(tmp_path: Path) -> sqlite3.Connection:
    connection = connect(tmp_path / "memory.db")
    create(connection)
    return connection


def least_cosine(one: Model, other: Model, texts: list[str]) -> float:
    return min(cosine(a, b) for a, b in zip(one.encode(texts).tolist(), other.encode(texts).tolist(), strict=True))


def test_both_backends_give_the_same_vectors_and_so_share_a_key(embedding_model: Model, onnx_model: Model) -> None:
    """Any length, any script, in batches of mixed lengths: a mask, a pad or a truncation that differs shows here."""
    assert least_cosine(onnx_model, embedding_model, some_texts(120)) >= COSINE_MIN
    assert onnx_model.fingerprint == embedding_model.fingerprint
    assert onnx_model.dimension == embedding_model.dimension


def test_a_vector_does_not_depend_on_the_batch_that_it_was_in(onnx_model: Model) -> None:
    texts = some_texts(30)
    together = onnx_model.encode(texts, batch=40).tolist()
    alone = [onnx_model.encode([text]).tolist()[0] for text in texts]
    assert min(map(cosine, together, alone)) >= COSINE_MIN


def test_a_change_of_backend_leaves_nothing_pending(
    embedding_model: Model, onnx_model: Model, memory: sqlite3.Connection
) -> None:
    observe(memory, some_texts(20))
    assert len(embed(embedding_model, memory).keys) == 20
    assert embeddings.pending(memory, onnx_model.fingerprint) == 0
    assert embed(onnx_model, memory).keys == []
    assert Embedder(onnx_model).verify(memory, Writer(memory)) == []


@pytest.mark.parametrize(
    ("layers", "heads", "width", "epsilon", "prefixed", "normalized"),
    [(1, 1, 16, 1e-12, False, True), (3, 4, 32, 1e-5, False, False), (2, 2, 24, 1e-3, True, True)],
)
def test_other_shapes_of_the_same_architecture_are_computed_as_torch_does(
    tmp_path: Path, layers: int, heads: int, width: int, epsilon: float, prefixed: bool, normalized: bool
) -> None:
    """Random weights, which no training made tolerant: a head, a layer or an epsilon that is mixed up is far off."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    path = small_model(tmp_path / "model")
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=30522, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=3 * width, layer_norm_eps=epsilon, max_position_embeddings=64, initializer_range=0.4,
    )  # fmt: skip
    model = BertModel(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias") or "LayerNorm" in name:
            torch.nn.init.normal_(weight, 0.5, 0.3)
    tensors = {("bert." if prefixed else "") + name: each.contiguous() for name, each in model.state_dict().items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": ["BertModel"]}))
    (path / "sentence_bert_config.json").write_text('{"max_seq_length": 48, "do_lower_case": false}')
    pooling = json.loads((path / "1_Pooling/config.json").read_text())
    (path / "1_Pooling/config.json").write_text(json.dumps({**pooling, "word_embedding_dimension": width}))
    if not normalized:
        modules = json.loads((path / "modules.json").read_text())
        (path / "modules.json").write_text(json.dumps(modules[:2]))
    texts = some_texts(60)
    theirs, ours = Model(path).encode(texts), Model(path, backend="onnx").encode(texts)
    assert min(map(cosine, ours.tolist(), theirs.tolist())) >= COSINE_MIN
    assert abs(ours - theirs).max() <= 1e-4 * abs(theirs).max(), "the lengths, too"


def _with(path: Path, name: str, **changes: object) -> None:
    known = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps({**known, **changes}))


def _halved(path: Path) -> None:
    """The same tensors, said to be of 16 bits."""
    data = (path / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b'"F32"', b'"F16"')
    (path / "model.safetensors").write_bytes(data[:8] + header + data[8 + length :])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: _with(path, "config.json", model_type="roberta"), "model_type is 'roberta'"),
        (lambda path: _with(path, "config.json", hidden_act="relu"), "hidden_act is 'relu'"),
        (lambda path: _with(path, "1_Pooling/config.json", pooling_mode_cls_token=True), "pools by"),
        (lambda path: (path / "tokenizer.json").unlink(), "no tokenizer.json"),
        (_halved, "no float32 embeddings.word_embeddings.weight"),
    ],
)
def test_a_model_of_another_kind_is_refused_and_not_computed_wrongly(tmp_path: Path, change, told: str) -> None:
    path = copy_of_the_model(tmp_path / "model")
    change(path)
    with pytest.raises(UnsuitableModel, match=told) as refused:
        Model(path, backend="onnx").encode(["a text"])
    assert "embeddings.backend: torch" in refused.value.hint


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_that_was_cut_is_a_damaged_model(tmp_path: Path, name: str) -> None:
    path = copy_of_the_model(tmp_path / "model")
    (path / name).write_bytes((path / name).read_bytes()[: (path / name).stat().st_size // 2])
    with pytest.raises(ModelDamaged, match=r"cannot be loaded|not JSON"):
        Model(path, backend="onnx").encode(["a text"])


def test_torch_is_never_imported(tmp_path: Path) -> None:
    source = f"""if True:
        import sys
        from replay.encoder import Model
        Model({str(real_model())!r}, backend="onnx").encode(["a text"])
        print([name for name in ("torch", "transformers", "sentence_transformers") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_its_packages_the_right_extra_is_named(onnx_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(encoder._PACKAGES, "onnx", ("onnxruntime", "a_package_that_is_not_there"))
    assert not encoder.is_available("onnx")
    with pytest.raises(MissingExtra, match="extra 'onnx'") as refused:
        Model(onnx_model.path, backend="onnx").encode(["a text"])
    assert "agent-journal[onnx]" in refused.value.hint


def test_the_configured_backend_is_the_one_that_computes_and_that_check_tries(tmp_path: Path) -> None:
    """Scenario: a machine without torch: its packages cannot be imported. `embed` and `check --deep` work."""
    data = tmp_path / "data"
    initialised_at(data, "embeddings:\n  backend: onnx\n")
    copy_of_the_model(data / "models" / NAME)
    blocked = tmp_path / "blocked"
    for name in ("torch", "transformers", "sentence_transformers"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text("raise ImportError('this machine has no torch')")
    run = {**ENVIRONMENT, "PYTHONPATH": f"{blocked}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    created = {"event": {"type": "memory.entity_created", "scope": "global", "name": "Acme", "entity_type": "company"}}
    observed = [
        {"event": {"type": "memory.observation_added", "scope": "global", "entity": "Acme", "content": text}}
        for text in ("renewed in May", "prefers mail")
    ]
    lines = "\n".join(map(json.dumps, [created, *observed]))
    assert journal("append", cwd=data, input=lines, env=run).returncode == 0
    done = journal("embed", "--json", cwd=data, env=run)
    assert done.returncode == 0, done.stderr
    assert {key: json.loads(done.stdout)[key] for key in ("embedded", "pending")} == {"embedded": 2, "pending": 0}
    checked = journal("check", "--deep", "--json", cwd=data, env=run)
    assert checked.returncode == 0, checked.stdout
    assert "known vector (cosine 1.0" in checked.stdout or "known vector (cosine 0.99999" in checked.stdout
    (data / "journal.yaml").write_text("embeddings:\n  backend: torch\n")
    assert json.loads(journal("status", "--json", cwd=data).stdout)["embeddings"]["pending"] == 0


def test_a_rebuild_encodes_each_text_once_and_none_that_a_checkpoint_carries(tmp_path: Path) -> None:
    """Scenario: 100 observations, 30 of them of a text that another has; a checkpoint holds the vectors of 30 texts.
    memory.db is lost: of 100 observations 40 texts are encoded, whatever a machine takes for that."""
    data = initialised_at(tmp_path / "data", "embeddings:\n  backend: onnx\n")
    copy_of_the_model(tmp_path / "data" / "models" / NAME)
    texts = [f"fact number {number}" for number in range(70)]
    with open_server_sync(data.root, background=False) as hook:
        hook.append_all([EntityCreated("global", name, "company") for name in ("Acme", "Bolt")])
        hook.append_all([ObservationAdded("global", "Acme", text) for text in texts[:30]])
        assert hook.background.embed() == 30
        hook.checkpoint()
        hook.append_all([ObservationAdded("global", "Acme", text) for text in texts[30:]])
        hook.append_all([ObservationAdded("global", "Bolt", text) for text in texts[:30]])
    for path in (tmp_path / "data").glob("memory*"):
        path.unlink()
    encoded: list[str] = []
    with open_server_sync(data.root, background=False) as hook:
        model = hook.background.model()
        assert model is not None
        encode = model.encode
        model.encode = lambda some, **options: encoded.extend(some) or encode(some, **options)  # type: ignore[method-assign]
        assert hook.background.embed() == 40
        (rows,) = hook.core.state.connection.execute("SELECT count(*) FROM observations").fetchone()
    assert rows == 100
    assert sorted(encoded) == sorted(texts[30:])
