"""The sentence model: where its files are, what identifies it, and turning text into vectors.

Knows a directory in the sentence-transformers layout, and two backends that encode with it: torch (by
sentence-transformers) and ONNX Runtime (`onnx_encoder`). Their vectors are equal within the tolerance of
docs/embeddings.md, so a model has one fingerprint whichever of them computes. Must not know observations or tables.
What encodes takes long to import, so it is imported when the first text is encoded and never before; nothing here asks
the network for anything.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from journal.errors import EnvironmentFault
from replay.model_files import ModelDamaged, determining_files, missing_files, module_folders, read_json, sha256_of

if TYPE_CHECKING:
    import numpy
    import numpy.typing

    Vectors: TypeAlias = numpy.typing.NDArray[numpy.float32]

MODEL_NAME = "all-MiniLM-L6-v2"
Backend = Literal["torch", "onnx"]
EXTRAS: dict[Backend, str] = {"torch": "embeddings", "onnx": "onnx"}
_PACKAGES: dict[Backend, tuple[str, ...]] = {
    "torch": ("sentence_transformers", "numpy"), "onnx": ("onnx", "onnxruntime", "tokenizers", "numpy"),
}  # fmt: skip
_HINTS: dict[Backend, str] = {
    "torch": "pip install 'agent-journal[embeddings]' (see docs/embeddings.md for the small CPU build of torch)",
    "onnx": "pip install 'agent-journal[onnx]'",
}


class MissingExtra(EnvironmentFault):
    """The optional packages that compute vectors are not installed."""

    code = "missing_extra"

    def __init__(self, backend: Backend = "torch", reason: str = "is not installed") -> None:
        super().__init__(f"searching needs the extra '{EXTRAS[backend]}', which {reason}", hint=_HINTS[backend])


class NoModel(EnvironmentFault):
    """There is no complete model where one was looked for."""

    code = "no_model"


def fingerprint_of(files: Mapping[str, str]) -> str:
    """What names a model: SHA-256 (hex) of its files' manifest, one `sha256sum` line a file, sorted by name."""
    manifest = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(manifest.encode()).hexdigest()


def is_available(backend: Backend = "torch") -> bool:
    """Whether the backend's extra is installed. Cheap: looks the packages up without importing them."""
    return all(importlib.util.find_spec(name) is not None for name in _PACKAGES[backend])


class Model:
    """One model directory. Opening it reads names only; the weights are loaded by the first `encode`.

    Safe to share between threads: one encodes at a time, because the tokenizer keeps padding state between calls and
    fails with "Already borrowed" when two threads are in it. `threads` are the backend's own, by default half the
    cores: torch's wait for each other by spinning, so where the server needs a core too, all of them are slower than
    half. `device` is torch's.
    """

    def __init__(
        self, path: str | Path, *, device: str = "cpu", threads: int | None = None, backend: Backend = "torch"
    ) -> None:
        self.path = Path(path)
        self.device = device
        self.backend: Backend = backend
        self.threads = threads if threads is not None else max(1, (os.cpu_count() or 1) // 2)
        self._encoder: Any = None
        self._lock = threading.Lock()
        missing = list(missing_files(self.path))
        if missing:
            raise NoModel(
                f"no complete sentence model: {', '.join(missing)} missing",
                path=str(self.path),
                hint=f"put the files of {MODEL_NAME} there, or name another directory in journal.yaml",
            )

    @classmethod
    def find(cls, directory: str | Path, configured: str | Path | None = None) -> Model:
        """The configured model, else the one under `models/` of the data directory. Raises NoModel."""
        return cls(configured if configured is not None else Path(directory) / "models" / MODEL_NAME)

    @cached_property
    def files(self) -> dict[str, str]:
        """Name → SHA-256 (hex) of each file that determines vectors, sorted by name. Reads them all once."""
        return {name: sha256_of(self.path / name) for name in sorted(determining_files(self.path))}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the manifest: equal files make equal vectors."""
        return fingerprint_of(self.files)

    @cached_property
    def dimension(self) -> int:
        """Numbers in a vector, from the configuration alone: the last module that changes it has the word."""
        dimension: object = read_json(self.path / "config.json").get("hidden_size")
        for folder in module_folders(self.path):
            config = folder / "config.json"
            if folder != self.path and config.is_file():
                module = read_json(config)
                modes = sum(on is True for key, on in module.items() if key.startswith("pooling_mode_"))
                width = module.get("word_embedding_dimension", dimension)
                dimension = module.get("out_features", width * modes if modes and isinstance(width, int) else dimension)
        if not isinstance(dimension, int) or dimension < 1:
            raise ModelDamaged("the model's config.json gives no vector size", path=str(self.path))
        return dimension

    def encode(self, texts: Sequence[str], *, batch: int = 32) -> Vectors:
        """One row a text, float32.

        Raises MissingExtra, UnsuitableModel where the backend does not compute such models, or ModelDamaged if what
        comes out are no vectors.
        """
        with self._lock:
            if self._encoder is None:
                self._encoder = self._load()
            vectors = self._encoder(texts, batch)
        import numpy

        rows: Vectors = numpy.ascontiguousarray(vectors, dtype="<f4").reshape(len(texts), -1)
        if texts and (rows.shape[1] != self.dimension or not numpy.isfinite(rows).all() or not rows.any(axis=1).all()):
            raise ModelDamaged(
                f"the model computes no usable vectors ({rows.shape[1]} numbers, {self.dimension} expected)",
                path=str(self.path),
                hint="journal check --deep tests the model",
            )
        return rows

    def _load(self) -> Callable[[Sequence[str], int], Any]:
        if not is_available(self.backend):
            raise MissingExtra(self.backend)
        try:  # half installed: a package is gone, or a library of it does not load
            return self._with_torch() if self.backend == "torch" else self._with_onnx()
        except (ImportError, OSError) as error:
            raise MissingExtra(self.backend, f"does not load: {error}") from error

    def _with_onnx(self) -> Callable[[Sequence[str], int], Any]:
        from replay.onnx_encoder import OnnxEncoder

        return OnnxEncoder(self.path, self.threads).encode

    def _with_torch(self) -> Callable[[Sequence[str], int], Any]:
        from sentence_transformers import SentenceTransformer

        with _quiet_loading():
            try:
                model = SentenceTransformer(str(self.path), device=self.device, local_files_only=True)
            except Exception as error:  # the loaders of weights, tokenizer and JSON share no base class
                reason = next(iter(str(error).splitlines()), "") or type(error).__name__
                raise ModelDamaged(
                    f"the model cannot be loaded: {reason}", path=str(self.path), hint="journal recover model"
                ) from error

        def encode(texts: Sequence[str], batch: int) -> Any:
            with _torch_threads(self.threads):
                return model.encode(list(texts), batch_size=batch, show_progress_bar=False)

        return encode


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """transformers draws a progress bar on stderr while it loads; here only the command decides what is drawn."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # its functions carry no types
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """The setting is the process's, which may have uses of torch of its own: it is put back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
