"""The other backend of `encoder`: ONNX Runtime and tokenizers instead of torch and sentence-transformers.

It starts in a tenth of the time and a third of the memory, and its vectors are those of torch within the tolerance of
docs/embeddings.md, so that they share a key. Imports its packages when a model is loaded and never before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from journal.errors import JournalError
from replay.model_files import ModelDamaged
from replay.onnx_graph import IDS, MASK, VECTORS, graph_of, shape_of

if TYPE_CHECKING:
    from replay.encoder import Vectors


class OnnxEncoder:
    """A loaded model. Not to be shared between threads: the tokenizer keeps its padding between calls."""

    def __init__(self, path: Path, threads: int) -> None:
        """Raises ImportError without the packages, UnsuitableModel, or ModelDamaged."""
        import onnx  # noqa: F401 - the graph needs it: an extra that is half installed shows here
        import onnxruntime
        from tokenizers import Tokenizer

        try:
            shape = shape_of(path)
            self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
            self._tokenizer.enable_truncation(shape.tokens_max)
            self._tokenizer.enable_padding(pad_id=shape.pad_id)
            self._session = onnxruntime.InferenceSession(
                graph_of(path, shape), _options(onnxruntime, path, threads), providers=["CPUExecutionProvider"]
            )
        except JournalError:
            raise
        except Exception as error:  # tokenizers raises Exception itself, the runtime's classes share no other base
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ModelDamaged(
                f"the model cannot be loaded: {reason}", path=str(path), hint="journal recover model"
            ) from error

    def encode(self, texts: Sequence[str], batch: int) -> Vectors:
        """One row a text, float32; each batch is as wide as its longest text."""
        import numpy

        rows = [self._run(texts[start : start + batch]) for start in range(0, len(texts), batch)]
        made: Vectors = numpy.concatenate(rows) if rows else numpy.empty((0, 0), dtype="<f4")
        return made

    def _run(self, texts: Sequence[str]) -> Any:
        import numpy

        encoded = self._tokenizer.encode_batch(list(texts))
        given = {
            IDS: numpy.array([each.ids for each in encoded], dtype=numpy.int64),
            MASK: numpy.array([each.attention_mask for each in encoded], dtype=numpy.int64),
        }
        return self._session.run([VECTORS], given)[0]


def _options(onnxruntime: Any, path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors; its warnings go to stderr, where the command draws
    # Threads that wait by spinning make a server that is busy with anything else slower, and this too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path))
    return options
