"""The files of a sentence model: which of them determine vectors, and what a look at them tells without loading them.

Knows a directory in the sentence-transformers layout, and the containers that weights come in. Must not know torch,
vectors or the journal. Nothing here reads the weights themselves but `sha256_of`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from journal.errors import DataError

_NO_PART_OF_THE_MODEL = frozenset({"data_config.json"})  # a record of the training data; nothing reads it
_HEADER_BYTES_MAX = 100_000_000  # as the safetensors library bounds it
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
_BITS |= {"U64": 64, "U32": 32, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8}
_PICKLE_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began a file before it wrote zip archives


class ModelDamaged(DataError):
    """The model's files are there, but what they make is no model."""

    code = "model_damaged"


def determining_files(path: Path) -> Iterator[str]:
    """Weights, tokenizer, configuration and modules; not documentation, nor exports for other runtimes."""
    for folder in {path, *module_folders(path)}:
        names = [entry.name for entry in folder.iterdir() if entry.is_file()] if folder.is_dir() else []
        yield from ((folder / name).relative_to(path).as_posix() for name in determining(names))


def determining(names: Collection[str]) -> Iterator[str]:
    """Of the names in one folder of a model those that take part in its vectors."""
    has_safetensors = any(name.endswith(".safetensors") for name in names)
    for name in names:
        suffix = Path(name).suffix
        if name in _NO_PART_OF_THE_MODEL or (suffix == ".bin" and has_safetensors):
            continue  # a .bin beside .safetensors is the same weights in the older format, which is not loaded
        if suffix in {".json", ".safetensors", ".bin", ".model"} or name in {"vocab.txt", "merges.txt"}:
            yield name


def missing_files(path: Path) -> Iterator[str]:
    """What any model needs and this directory has not."""
    if not path.is_dir():
        yield "the directory is"
        return
    for name in ("modules.json", "config.json"):
        if not (path / name).is_file():
            yield name
    if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.txt", "tokenizer.model")):
        yield "tokenizer.json"
    if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        yield "model.safetensors"


def module_folders(path: Path) -> list[Path]:
    """Where the model's modules lie; the first one's path is "": the directory itself. Raises ModelDamaged."""
    modules = read_json(path / "modules.json")
    try:
        folders = [path / module["path"] for module in modules]
    except (TypeError, KeyError) as error:
        where = str(path / "modules.json")
        raise ModelDamaged("no list of modules", path=where, hint="journal recover model") from error
    if any(not folder.resolve().is_relative_to(path.resolve()) for folder in folders):
        raise ModelDamaged("a module lies outside", path=str(path / "modules.json"), hint="journal recover model")
    return folders


def read_json(path: Path) -> Any:
    """Raises ModelDamaged where the file is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelDamaged(f"not JSON: {error}", path=str(path), hint="journal recover model") from error


def sha256_of(path: Path) -> str:
    """In hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- without loading anything -----------------------------------------------------------------------------------------


def fault_of(path: Path) -> str | None:
    """What is wrong with the model, as far as its configuration and the containers of its weights tell; None if sound.

    Milliseconds. A flipped bit inside the weights is not seen here: that is what a manifest of hashes is for.
    """
    missing = list(missing_files(path))
    if missing:
        return f"{', '.join(missing)} missing"
    try:
        names = sorted(determining_files(path))
        for name in names:
            fault = _file_fault(path / name)
            if fault is not None:
                return f"{name}: {fault}"
    except ModelDamaged as error:
        return f"{Path(error.path or path).name}: {error.message}"
    except OSError as error:
        return f"{Path(error.filename or path).name}: {error.strerror}"
    return None


def _file_fault(path: Path) -> str | None:
    if path.stat().st_size == 0:
        return "the file is empty"
    match path.suffix:
        case ".json":
            read_json(path)
        case ".safetensors":
            return _safetensors_fault(path)
        case ".bin":
            return _torch_fault(path)
        case ".txt":
            try:
                path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                return f"not UTF-8 at {error.start}"
    return None


def _safetensors_fault(path: Path) -> str | None:
    """The format (https://huggingface.co/docs/safetensors): u64 length, a JSON header, then tensors without gaps."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_HEADER_BYTES_MAX, size - 8):
            return f"its header claims {length} bytes"
        text = file.read(length)
    try:
        tensors = {name: each for name, each in json.loads(text).items() if name != "__metadata__"}
        spans = sorted(_span(each) for each in tensors.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return f"its header cannot be read: {error}"
    end = 0
    for begin, stop, shaped in spans:
        if begin != end or stop < begin or shaped not in (None, stop - begin):
            return f"a tensor at {begin} is not where and as long as the header says"
        end = stop
    if 8 + length + end != size:
        return f"{size} bytes, its header accounts for {8 + length + end}"
    return None if tensors else "it holds no tensors"


def _span(tensor: dict[str, Any]) -> tuple[int, int, int | None]:
    """Begin, end, and the bytes that shape and type ask for (None for a type that is not known here)."""
    begin, end = tensor["data_offsets"]
    bits = _BITS.get(tensor["dtype"])
    return int(begin), int(end), None if bits is None else math.prod(tensor["shape"]) * bits // 8


def _torch_fault(path: Path) -> str | None:
    """torch.save writes a zip archive whose directory stands at its end: a file that was cut has none."""
    with path.open("rb") as file:
        if file.read(len(_PICKLE_MAGIC)) == _PICKLE_MAGIC:
            return None
    import zipfile  # and all that it imports, for one kind of file

    try:
        with zipfile.ZipFile(path) as archive:
            pickled = any(name.endswith("data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        return f"no archive of torch: {error}"
    return None if pickled else "no archive of torch: it has no data.pkl"
