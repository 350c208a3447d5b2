"""How the embedding model and the stored vectors compare with what the journal and their own checksums say.

Changes nothing. Knows the configured model only; what follows from the facts is `recovery.tables.model`'s.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Literal

from journal.reader import LogReader
from recovery.data import Data
from recovery.facts import ModelFacts, VectorFacts, Works
from recovery.known import Known
from recovery.model.journaled import Manifest, journaled_manifest, model_name
from recovery.reading import reading
from replay.embeddings import bad_rows
from replay.encoder import NoModel
from replay.model_files import ModelDamaged, determining_files, fault_of, sha256_of
from replay.probe import Probed, probe

Tested = Literal["never", "unjournaled", "always"]
"""Which models encode a sentence: of one with a manifest, hashes say enough for recovery."""


def look_at_model(data: Data, reader: LogReader, known: Known, *, hashed: bool, tested: Tested) -> ModelFacts:
    """The model as it lies there. `hashed` reads every byte of it, `tested` encodes a sentence in a child process."""
    path = data.config.model_path(data.root)
    manifest = journaled_manifest(data, reader)
    kind = data.storage.kind(path)
    kind = "directory" if kind == "link" and os.path.isdir(path) else kind
    facts = ModelFacts(
        name=model_name(data), path=path, kind=kind, journaled_seq=manifest.seq if manifest else 0,
        journaled_source=manifest.source if manifest else "",
    )  # fmt: skip
    if kind != "directory":
        return facts
    fault = fault_of(Path(path)) or ""
    missing, altered, extra = _compare(Path(path), manifest, hashed)
    asked = tested == "always" or (tested == "unjournaled" and manifest is None)
    found = _probe(data, facts.name, known) if asked and not fault else Probed(None, "")
    works = _WORKS[found.works] if found.reason else "untested"
    return ModelFacts(
        name=facts.name, path=path, kind=kind, journaled_seq=facts.journaled_seq,
        journaled_source=facts.journaled_source, hashed=hashed and manifest is not None, missing=missing,
        altered=altered, extra=extra, fault=fault, works=works, test=found.reason,
    )  # fmt: skip


_WORKS: dict[bool | None, Works] = {True: "yes", False: "no", None: "unknown"}


def _probe(data: Data, name: str, known: Known) -> Probed:
    """Seconds, so it is asked once of the same files."""
    try:
        model = data.model()
        fingerprint = model.fingerprint
    except (NoModel, ModelDamaged, OSError) as error:
        return Probed(False, str(error))
    if fingerprint not in known.probes:
        known.probes[fingerprint] = probe(str(model.path), name, backend=model.backend)
    return known.probes[fingerprint]


Names = tuple[str, ...]


def _compare(path: Path, manifest: Manifest | None, hashed: bool) -> tuple[Names, Names, Names]:
    """Names that are missing, of other bytes, and of files that take part in the vectors and were never journaled."""
    if manifest is None:
        return (), (), ()
    try:
        here = set(determining_files(path))
    except ModelDamaged:  # modules.json cannot be read: the files that it names are not known
        here = set(manifest.files)
    missing = [name for name in sorted(manifest.files) if not (path / name).is_file()]
    altered = [
        name
        for name in sorted(manifest.files)
        if hashed and name not in missing and _sha256(path / name) != manifest.files[name]
    ]
    return tuple(missing), tuple(altered), tuple(sorted(here - set(manifest.files)))


def _sha256(path: Path) -> str:
    """Of a file that cannot be read, what no file has."""
    try:
        return sha256_of(path)
    except OSError:
        return ""


def look_at_vectors(data: Data) -> VectorFacts | None:
    """Every stored vector held against its checksum, and its size against the model's; None without a memory.db."""
    current = data.generations.current()
    if current.path is None or current.kind != "generation":
        return None
    try:
        with reading(current.path) as connection:
            (stored,) = connection.execute("SELECT count(*) FROM embeddings").fetchone()
            reasons = Counter(each.reason for each in bad_rows(connection, dimensions(data)))
    except (sqlite3.Error, OSError):
        return None  # which is memory.db's damage, and told there
    return VectorFacts(stored=stored, bad=sum(reasons.values()), reasons=dict(sorted(reasons.items())))


def dimensions(data: Data) -> dict[str, int]:
    """Fingerprint → numbers in a vector, of the model that is there and can be read."""
    try:
        model = data.model()
        return {model.fingerprint: model.dimension}
    except (NoModel, ModelDamaged, OSError):
        return {}
