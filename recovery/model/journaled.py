"""What the journal last said of the embedding model. Lean: `status` needs it; the model itself is not looked at."""

from __future__ import annotations

import os
from typing import NamedTuple

from journal.events import ModelReplaced, ModelVerified
from journal.reader import LogReader
from recovery.data import Data
from replay.encoder import fingerprint_of
from replay.latest import Latest, event_at, model_key, read_latest


class Manifest(NamedTuple):
    """What the journal last said of a model: its files' sha256 (hex) by name, and where they came from."""

    seq: int
    files: dict[str, str]
    source: str

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.files)


def model_name(data: Data) -> str:
    """The last part of the configured path."""
    return os.path.basename(data.config.model_path(data.root))


def journaled_manifest(data: Data, reader: LogReader) -> Manifest | None:
    """The last event about the configured model; None if it was never journaled."""
    return manifest_in(read_latest(reader, data.checkpoints), data, reader)


def manifest_in(latest: Latest, data: Data, reader: LogReader) -> Manifest | None:
    """The same, as far as `latest` tells."""
    seq = latest.get(model_key(model_name(data)))
    event = event_at(reader, seq) if seq is not None else None
    if seq is None or not isinstance(event, ModelVerified | ModelReplaced):
        return None
    return Manifest(seq, event.files, event.source)
