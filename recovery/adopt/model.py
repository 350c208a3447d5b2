"""`journal adopt model`: the model as it lies there becomes the journaled one, if it is sound and works."""

from __future__ import annotations

from pathlib import Path

import msgspec

from journal.events import ModelVerified
from recovery.control.writer import commit_events, open_writer
from recovery.data import Data
from recovery.model.journaled import journaled_manifest, model_name
from recovery.model.seen import FIRST_SIGHT
from replay.encoder import Model
from replay.model_files import fault_of
from replay.probe import probe


class AdoptedModel(msgspec.Struct):
    """What journaling the model as it lies there came to; ``seq`` is None where nothing was journaled."""

    name: str
    files: int = 0
    fingerprint: str = ""
    seq: int | None = None
    test: str = ""
    refused: str | None = None


def see_model(data: Data) -> int | None:
    """Journals the first sight of a model where there is one. Returns its seq; None where there was nothing to do."""
    path = Path(data.config.model_path(data.root))
    if not path.is_dir() or fault_of(path) is not None or journaled_manifest(data, data.reader()) is not None:
        return None
    model = Model(path)
    return _journal(data, ModelVerified(model_name(data), model.files, FIRST_SIGHT))


def adopt_model(data: Data, *, dry_run: bool = False, source: str = "adopted") -> AdoptedModel:
    """Makes the model as it lies there the journaled one, if it is sound and passes its test.

    Raises NoModel where there is none. Nothing is journaled in a `dry_run`, or
    where the files are the journaled ones already.
    """
    model = data.model()
    name = model_name(data)
    fault = fault_of(model.path)
    if fault is not None:
        return AdoptedModel(name, refused=fault)
    adopted = AdoptedModel(name, len(model.files), model.fingerprint)
    manifest = journaled_manifest(data, data.reader())
    if manifest is not None and manifest.fingerprint == model.fingerprint:
        return adopted
    found = probe(str(model.path), name, backend=model.backend)
    adopted.test = found.reason
    if found.works is False:
        adopted.refused = f"it fails its test: {found.reason}"
        return adopted
    if not dry_run:
        adopted.seq = _journal(data, ModelVerified(name, model.files, source))
    return adopted


def _journal(data: Data, event: ModelVerified) -> int:
    with open_writer(data) as writer:
        return commit_events(writer, [event], actor="journal")[0].seq
